"""Unverified decoders stand apart: in rows, tables, plots, files and where names come back."""

import dataclasses
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from specvla_ros.benchmark import checks, plots, report, report_tables
from specvla_ros.benchmark.bag_replay import rows as replay_rows
from specvla_ros.benchmark.bag_replay.offline import Replayed
from specvla_ros.benchmark.bag_replay.page import _table as page_table
from specvla_ros.benchmark.episodes import overlay
from specvla_ros.benchmark.episodes.films import read_episode
from specvla_ros.benchmark.episodes.overlay import tokens_per_pass
from specvla_ros.benchmark.episodes.video import moment_at
from specvla_ros.benchmark.records import ActionRecord, EpisodeRecord
from specvla_ros.configuration import load_preset, preset_names
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.errors import SpecVLAError


def skipped(ms=30.0, **changes):
    """Return an action without a pass of the target, as HeiSD's verify-skip has them."""
    return ActionRecord(**{
        'tokens': tuple(range(31800, 31807)), 'target_passes': 0, 'drafted': 0, 'accepted': 0,
        'acceptance_lengths': (), 'sources': ('retrieval',) * 7, 'unverified': 7,
        'stage_ms': {'preprocess': 5.0, 'vision': 10.0, 'prefill': 0.0, 'draft': 0.0,
                     'verify': 0.0, 'total': ms}, **changes})


def document_of(make, episodes, *names):
    decoders = {config.name: config for config in map(load_preset, names)}
    rows = report.rows(episodes, list(decoders))
    return report.report([], {}, {}, rows, decoders)


def test_each_preset_says_what_it_promises():
    kinds = {name: load_preset(name).verification for name in preset_names()}
    assert {name for name, kind in kinds.items() if kind == 'unverified'} == {'kerv', 'heisd'}
    assert {kinds[name] for name in ('ar', 'auto', 'glance', 'jacobi', 'retrieval', 'strict')} == {
        'lossless'}
    assert {kinds[name] for name in ('auto_relaxed', 'dynamic', 'relaxed', 'tolerance')} == {
        'relaxed'}


@pytest.mark.parametrize('content, kind', [
    ('rule: {name: bins, r: 0, gripper_exact: true}', 'lossless'),
    ('rule: {name: bins, r: 1, gripper_exact: true}', 'relaxed'),
    ('rule: {name: strict}\ncompletion: {drafter: history}', 'unverified'),
    ('rule: {name: bins, r: 9, gripper_exact: true}\ncompletion: {drafter: history}',
     'unverified')])
def test_the_weakest_that_may_happen_counts(tmp_path, content, kind):
    path = tmp_path / 'mine.yaml'
    path.write_text(f'drafter: {{name: history}}\n{content}\n')
    assert load_preset(path).verification == kind
    assert ('(unverified)' in load_preset(path).name) == (kind == 'unverified')


def test_candidates_promise_what_the_weakest_does(tmp_path):
    (tmp_path / 'mixed.yaml').write_text('candidates: [ar, glance, relaxed]\n')
    assert load_preset(tmp_path / 'mixed.yaml').verification == 'relaxed'


@pytest.mark.parametrize('name', ['kerv', 'heisd'])
def test_a_name_from_a_table_can_be_given_back(name):
    config = load_preset(name)
    assert config.name == f'{name} (unverified)'
    assert load_preset(config.name) == config
    assert checks.check_decoders([config.name]) == {config.name: config}
    assert checks.name_or_full_path(config.name) == config.name
    with pytest.raises(SpecVLAError, match='there is a decoder'):
        checks.check_decoders([name, config.name])
    with pytest.raises(SpecVLAError, match="'relaxed \\(verified\\)', must be one of"):
        load_preset('relaxed (verified)')


def test_no_other_decoder_can_be_called_unverified_or_hide_it(tmp_path):
    for stem in ('mine', 'mine (unverified)'):
        path = tmp_path / f'{stem}.yaml'
        path.write_text('drafter: {name: none}\nrule: {name: strict}\n')
        assert load_preset(path).name == 'mine'
        path.write_text('drafter: {name: none}\nrule: {name: strict}\n'
                        'completion: {drafter: history}\n')
        assert load_preset(path).name == 'mine (unverified)'


@pytest.mark.parametrize('stem', ['[red]mine', 'a$b', '_mine', 'x\ty', ' mine'])
def test_a_file_that_gives_a_name_that_is_something_else_elsewhere_is_refused(tmp_path, stem):
    path = tmp_path / f'{stem}.yaml'
    path.write_text('drafter: {name: none}\nrule: {name: strict}\n')
    with pytest.raises(SpecVLAError, match='rename the file') as error:
        load_preset(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['kerv', 'heisd', 'ar', 'auto_relaxed'])
def test_file_names_have_no_blanks_and_brackets(name):
    assert load_preset(name).file_name == name + '-unverified' * (name in ('kerv', 'heisd'))


def test_rows_with_no_pass_break_no_figure(make):
    """No NaN: JSON has none. No acceptance length where there was no pass after a prefill."""
    episodes = [make.episode('ar'), make.episode('heisd (unverified)', actions=[skipped()] * 3)]
    document = document_of(make, episodes, 'ar', 'heisd')
    row = document['rows'][1]
    assert (row['target_passes_per_action'], row['actions_without_pass']) == (0, 3)
    assert row['acceptance_length'] is None and row['acceptance_histogram'] == []
    assert (row['unverified'], row['tokens']) == (21, 21)
    json.dumps(document, allow_nan=False)
    lines = report_tables.figure_lines(row)
    assert lines['verification'] == 'unverified'
    assert lines['tokens the target never saw'] == '100 %'
    assert lines['actions without a pass'] == '3' and lines['acceptance length'] == ''
    report_tables.print_tables(document, Console(file=io.StringIO()))


def bars(axis):
    return [(bar.get_y(), bar.get_height()) for bar in axis.patches]


def test_no_bar_of_the_plot_goes_below_zero_where_passes_are_skipped(make, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, '_legend_below', lambda axis, n: seen.append(axis))
    actions = [skipped(), skipped(), make.action()]
    document = document_of(make, [
        make.episode('ar'), make.episode('heisd (unverified)', actions=actions)], 'ar', 'heisd')
    plots.write_plot(tmp_path / 'plot.png', document)
    # Of three actions one had a prefill: 7 passes of 3 actions, one third of a prefill each.
    assert bars(seen[0]) == [(0, 1), (0, pytest.approx(1 / 3)), (1, 6),
                             (pytest.approx(1 / 3), pytest.approx(2))]
    assert [text.get_text() for text in seen[0].get_xticklabels()] == ['ar', 'heisd\n(unverified)']


def test_tables_have_as_many_decoders_as_fit_and_unverified_ones_last(make):
    names = ['ar', 'kerv', 'relaxed', 'glance', 'heisd', 'auto', 'auto_relaxed']
    episodes = [make.episode(load_preset(name).name, task) for name in names for task in (0, 1)]
    screen = io.StringIO()
    report_tables.print_tables(document_of(make, episodes, *names), Console(file=screen, width=80))
    text = screen.getvalue()
    assert '…' not in text and max(map(len, text.splitlines())) <= 80
    order = [text.index(name) for name in ('glance ', 'auto ', 'auto_relaxed', 'kerv', 'heisd')]
    assert order == sorted(order)
    assert 'kerv (unverified)' in text and 'heisd (unverified)' in text


def test_what_the_envelope_forbade_and_risk_are_shown_where_they_occur(make):
    def lines(*actions):
        document = document_of(make, [make.episode(actions=list(actions))], 'ar')
        return dict(report_tables.shown_lines(document['rows'][:1])), document['rows'][0]

    action = make.action()
    shown, row = lines(action)
    assert 'forbidden tokens it wanted' not in shown and 'risk, mean' not in shown
    assert row['forbidden'] == 0 and 'mean_risk' not in row
    shown, row = lines(dataclasses.replace(action, forbidden=2, risk=0.1),
                       dataclasses.replace(action, forbidden=1, risk=0.3), action)
    assert shown['forbidden tokens it wanted'] == ['3'] and shown['risk, mean'] == ['0.200']
    assert row['forbidden'] == 3 and row['mean_risk'] == pytest.approx(0.2)


def test_replay_shows_the_same(make):
    action = dataclasses.replace(skipped(), forbidden=4, risk=None)
    decoders = {name: load_preset(name) for name in ('ar', 'kerv (unverified)')}
    frames = [Replayed(0, 0, 0, 'x', 0, {'ar': make.action(), 'kerv (unverified)': action})]
    rows = replay_rows.rows(frames, {}, list(decoders))
    document = report.report([], {}, {}, rows, decoders)
    json.dumps(document, allow_nan=False)
    screen = io.StringIO()
    replay_rows.print_table(document, 'bag', Console(file=screen, width=80))
    for text in (screen.getvalue(), page_table(document)):
        assert 'kerv (unverified)' in text and 'verification' in text and 'lossless' in text
        assert 'forbidden tokens it wanted' in text and 'actions without a pass' in text


def test_records_keep_what_was_unverified_and_forbidden_and_old_ones_are_read(make):
    trace = DecodeTrace(sources=['target'] * 4 + ['kalman'] * 3, bins_off=[0] * 4 + [None] * 3,
                        target_passes=1, forbidden=2, entropies=[0.4])
    record = ActionRecord.of(range(7), trace)
    assert (record.unverified, record.forbidden, record.risk) == (3, 2, 0.1)
    assert ActionRecord.of(range(7), DecodeTrace(bins_off=[None] * 7)).risk is None
    episode = make.episode(actions=[record])
    assert EpisodeRecord.from_json(episode.to_json()) == episode
    old = json.loads(episode.to_json())
    for action in old['actions']:
        del action['unverified'], action['forbidden']
    assert EpisodeRecord.from_json(json.dumps(old)).actions[0].unverified == 0


def completed(make):
    """Return KERV's kind of action: a prefill gained two tokens, five were completed."""
    return dataclasses.replace(
        make.action(()), sources=('target', 'target', *['kalman'] * 5), unverified=5)


def test_the_video_tells_unverified_tokens_from_accepted_ones(make, monkeypatch):
    action, film = completed(make), make.film('kerv (unverified)')
    assert tokens_per_pass(action) == [1, 1, 5]
    drawn = []
    monkeypatch.setattr(
        'PIL.ImageDraw.ImageDraw.rounded_rectangle',
        lambda self, box, radius, colour: drawn.append(colour))
    film = dataclasses.replace(film, actions=[action] * 5,
                               method='eagle + dynamic, least = 5, most = 15, scale = 20')
    overlay.draw_column(film, moment_at(film, 0.001, pass_by_pass=False))
    assert drawn == [overlay.TARGET] * 2 + [overlay.UNVERIFIED] * 5
    # In slow motion they appear with the last pass, in actions without one as well.
    for one in (action, skipped(100.0)):
        slow = dataclasses.replace(film, actions=[one] * 5)
        parts = len(tokens_per_pass(one))
        assert [moment_at(slow, ms / 1000, pass_by_pass=True).passes for ms in (1, 99)] == [
            0, parts]


def test_an_episode_of_a_session_keeps_them_too(make, tmp_path):
    frames = np.empty(1, object)
    frames[:] = [make.jpeg(9)]
    arrays = {
        'frames': frames, 'tokens': np.arange(300, 307)[None], 'normalized': np.zeros((1, 7)),
        'target_passes': [0], 'drafted': [0], 'accepted': [0], 'ros_overhead_ms': [2.0],
        'sources': json.dumps([['retrieval'] * 7]), 'acceptance_lengths': '[[]]',
        'stage_ms': json.dumps([{'total': 20.0}]), 'success': True, 'crashed': False,
        'suite': 'libero_object', 'instruction': 'x', 'message': '', 'task': 0, 'state': 0,
        'max_steps': 280}
    new = {'forbidden': [1], 'unverified': [7], 'risk': [math.nan]}
    for more, counts in ((new, (7, 1, None)), ({}, (0, 0, None)),
                         (new | {'risk': [0.25]}, (7, 1, 0.25))):
        np.savez(tmp_path / 'kerv-unverified_0_0.npz', **arrays, **more)
        played = read_episode(tmp_path / 'kerv-unverified_0_0.npz', 'kerv (unverified)', 'eagle')
        action, = played.record.actions
        assert (action.unverified, action.forbidden, action.risk) == counts
        assert played.record.decoder == 'kerv (unverified)'


def test_what_counts_nothing_of_the_kind_is_recorded_all_the_same():
    trace = SimpleNamespace(target_passes=1, drafted=0, accepted=0, acceptance_lengths=[],
                            sources=['target'], stage_ms={'total': 1.0}, risk=math.nan)
    assert ActionRecord.of([1], trace).unverified == 0

"""`specvla report`: known episodes give known cells; what is missing is said, never zero."""

import dataclasses
from html.parser import HTMLParser
import io
import json
from pathlib import Path
import re

from fake_players import FakePlayer
import pytest
from rich.console import Console
import yaml

from specvla_ros import cli
from specvla_ros.benchmark.episodes import evaluation
from specvla_ros.benchmark.episodes.comparison import comparison
from specvla_ros.benchmark.episodes.paper import command, playing, roles, sections
from specvla_ros.benchmark.episodes.paper.arguments import ReportArgs
from specvla_ros.benchmark.episodes.paper.command import make_document, run
from specvla_ros.benchmark.episodes.paper.drafters import drafters_section, read_drafters
from specvla_ros.benchmark.episodes.paper.measured import check_together, paired, read_run
from specvla_ros.benchmark.episodes.paper.published import published, settings, SUITES
from specvla_ros.benchmark.episodes.plan import EvalArgs
from specvla_ros.benchmark.records import EpisodeLog
from specvla_ros.benchmark.report import report, rows
from specvla_ros.configuration import load_preset
from specvla_ros.drafter_verdict import DecodedEpisode, DrafterVerdict
from specvla_ros.errors import SpecVLAError

MACHINE = {'cpu': 'a processor', 'cores': 2, 'memory_gib': 8.0, 'gpus': []}


def presets(*names, folder=None):
    """Return presets; `relaxed_r5` is relaxed with another threshold."""
    made = {}
    for name in names:
        base, _, reach = name.partition('_r')
        config = load_preset(base if reach.isdigit() else name)
        if reach.isdigit():
            config = dataclasses.replace(config, name=name, rule=dataclasses.replace(
                config.rule, settings={**config.rule.settings, 'r': int(reach)}))
        made[name] = config
    return made


def identity_of(decoders, suite, **changes):
    config = {'suites': [suite], 'trials': 2, 'workers': 1, 'device': 'cpu', 'max_steps': None,
              'decoders': json.loads(json.dumps({
                  name: dataclasses.asdict(one) for name, one in decoders.items()}))}
    checkpoint = {'target_sha256': changes.pop('target', 'a' * 64),
                  'drafter_sha256': changes.pop('drafter', 'b' * 64),
                  **changes.pop('further', {})}
    machine = MACHINE | changes.pop('machine', {})
    return {'config': config | changes, 'checkpoint': checkpoint, 'machine': machine,
            'versions': {'torch': '2'}}


@pytest.fixture
def write(tmp_path, make):
    """Give a function that writes a run of eight episodes: per decoder (solved, lengths, ms)."""
    def write(name, played, suite='libero_object', **changes):
        decoders = presets(*played)
        folder = tmp_path / name
        folder.mkdir()
        (folder / 'run.json').write_text(json.dumps(identity_of(decoders, suite, **changes)))
        log = EpisodeLog(folder / 'episodes.jsonl')
        for decoder, (solved, lengths, ms) in played.items():
            for state in range(8):
                episode = make.episode(decoder, 0, state, success=state < solved,
                                       actions=[make.action(lengths, ms)] * 3)
                log.append(dataclasses.replace(episode, suite=suite))
        return folder
    return write


USUAL = {'ar': (6, (1,) * 6, 120.0), 'strict': (6, (2, 1, 3), 80.0), 'relaxed': (5, (6,), 60.0)}


def cells(section, *first):
    """Return the cells of the one line that begins with these."""
    line, = (line for line in section.table.lines
             if tuple(cell.main for cell in line.cells[:len(first)]) == first)
    return line, [(cell.main, cell.small) for cell in line.cells[len(first):]]


def test_the_papers_tables_are_read_as_they_are():
    rows = published()
    assert tuple(rows) == SUITES
    assert rows['libero_object'].success == (89.0, 89.0, 85.0)
    assert rows['libero_10'].length == (1.67, 2.10)
    assert rows['libero_goal'].accepted[1] == (23.01, 18.98, 39.99, 15.41, 2.53, 0.08)
    for suite in ('libero_object', 'libero_spatial', 'libero_10'):  # as the paper defines Length
        assert rows[suite].mean_length(0) == pytest.approx(rows[suite].length[0], abs=0.006)
    assert rows['libero_goal'].mean_length(0) < 1.7 < 2.0 < rows['libero_goal'].length[0]
    assert (settings().threshold('libero_goal'), settings().threshold('libero_10')) == (9, 5)


def test_known_episodes_give_known_cells(write):
    runs = [read_run(write('run', USUAL))]
    main = sections.main_section(runs)
    _, relaxed = cells(main, 'libero_object', 'ours', 'relaxed, r = 9')
    assert relaxed == [
        ('62.5', '31–86, 5 of 8'), ('-12.5', '-41…+19, 8 pairs'), ('6.00', '6.00–6.00, n 24'),
        ('2.00×', '2.00–2.00, n 24'), ('2.00', '2.00–2.00, n 24')]
    _, ar = cells(main, 'libero_object', 'ours', 'ar')
    assert ar[:3] == [('75.0', '41–93, 6 of 8'), ('', ''), ('1.00', 'by definition')]
    line, paper = cells(main, 'libero_object', 'paper', 'relaxed, r = 9')
    assert line.kind == 'paper' and [main for main, _ in paper] == [
        '85.0', '-4.0', '2.38', '1.38×', '']
    _, strict = cells(sections.distribution_section(runs), 'libero_object', 'ours', 'strict')
    assert [main for main, _ in strict] == ['33.3', '33.3', '33.3', '0.0', '0.0', '0.0', '2.00']
    assert strict[-1][1] == '2.00–2.00, n 72'
    _, strict = cells(sections.position_section(runs), 'libero_object', 'strict')
    assert strict == [('–', ''), ('1.00', '1.00–1.00, n 24'), ('–', ''), ('0.00', '0.00–0.00, n 24'
                                                                      ), ('2.00', '2.00–2.00, n 24'
                                                                          ), ('–', ''), ('–', '')]


def test_what_was_not_measured_is_said_with_the_command_and_never_zero(write):
    runs = [read_run(write('run', {name: USUAL[name] for name in ('ar', 'relaxed')}))]
    for make in (sections.main_section, sections.distribution_section, sections.position_section,
                 sections.sweep_section):
        section = make(runs)
        for suite in SUITES:
            said = [line.cells[-1] for line in section.table.lines
                    if line.kind == 'missing' and line.cells[0].main == suite]
            assert said and all(cell.main == 'not measured' for cell in said), section.title
            assert all(f'specvla report --play --suite {suite}' in cell.small for cell in said)
        ours = [line for line in section.table.lines if line.kind == 'ours']
        assert {line.cells[0].main for line in ours} == {'libero_object'}
    line, _ = cells(sections.main_section(runs), 'libero_object', 'ours', 'strict')
    assert line.kind == 'missing'
    front = sections.front_text(runs)
    assert 'Not measured: libero_goal, libero_spatial, libero_10.' in front


def test_a_file_of_json_gives_the_same_cells_as_its_folder(write, tmp_path):
    folder = write('run', USUAL)
    decoders, episodes = presets(*USUAL), EpisodeLog(folder / 'episodes.jsonl').episodes
    document = report(['x/specvla', 'eval', '--compare'], {}, {}, rows(episodes, list(decoders)),
                      decoders) | json.loads((folder / 'run.json').read_text())
    plain, compared = tmp_path / 'plain.json', tmp_path / 'compared.json'
    plain.write_text(json.dumps(document))
    compared.write_text(json.dumps(document | {'comparison': comparison(episodes, decoders)}))
    of_folder, of_file, of_plain = (read_run(path) for path in (folder, compared, plain))
    for make in (sections.main_section, sections.distribution_section, sections.position_section,
                 sections.sweep_section):
        assert make([of_folder]) == make([of_file])
    assert of_file.command == ('specvla', 'eval', '--compare')
    _, relaxed = cells(sections.main_section([of_plain]), 'libero_object', 'ours',
                       'relaxed, r = 9')
    assert relaxed[1][0] == 'not measured' and relaxed[3] == ('2.00×', 'no interval, n 24')


def test_decoders_are_told_by_what_they_do(write):
    """On Long the paper's r is 5; a name says nothing."""
    made = presets('ar', 'strict', 'relaxed', 'relaxed_r5', 'glance_relaxed', 'kerv')
    assert [roles.role_of(config, 'libero_10') for config in made.values()] == [
        'ar', 'strict', 'other', 'relaxed', 'other', 'other']
    assert roles.role_of(made['relaxed'], 'libero_goal') == 'relaxed'
    assert [roles.threshold_of(config) for config in made.values()] == [
        None, 0, 9, 5, None, None]


def test_the_sweep_recommends_the_longest_length_that_costs_little_success(write):
    played = USUAL | {'relaxed_r3': (6, (3, 3), 70.0), 'relaxed_r15': (3, (6,), 55.0)}
    runs = [read_run(write('run', played))]
    section = sections.sweep_section(runs)
    shown = [(line.cells[1].main, line.cells[1].small) for line in section.table.lines
             if line.kind == 'ours']
    assert shown == [('0', ''), ('3', 'recommended, not sure'), ('9', ''), ('15', '')]
    main = sections.main_section(runs)
    assert not [line for line in main.table.lines if 'r = 15' in line.cells[2].main]


def test_runs_of_one_suite_must_be_of_the_same_weights_machine_and_settings(write):
    first = read_run(write('first', USUAL))
    sweep = {'ar': USUAL['ar'], 'relaxed_r3': USUAL['relaxed']}
    check_together([first, read_run(write('sweep', sweep, trials=3))])
    # A run from before the drafter was trained used none, so its figures are of no other weights.
    before = read_run(write('before', {'ar': USUAL['ar']}, drafter=None))
    check_together([before, first])
    # One of `ar` alone used none either, whatever stood beside it.
    used = {'further': {'images': {'libero_object': 'cut'}}}
    alone = read_run(write('alone', {'ar': USUAL['ar']}, drafter='d' * 64, **used))
    check_together([alone, first])
    for name, changes in (('target_sha256', {'target': 'c' * 64}),
                          ('images', {'further': {'images': {'libero_object': 'whole'}}})):
        with pytest.raises(SpecVLAError, match=name):
            check_together([alone, read_run(write(name, sweep, **changes))])
    check_together([read_run(write('glance', sweep, further={'glance_sha256': 'e' * 64})), first])
    for number, (changes, reason) in enumerate([
            ({'target': 'c' * 64}, r"target_sha256 \('a+.*a+', now 'c+.*c+'\)"),
            ({'drafter': 'd' * 64}, r"drafter_sha256 \('b+.*b+', now 'd+.*d+'\)"),
            ({'machine': {'cpu': 'another'}}, r"machine.cpu \('a processor', now 'another'\)"),
            ({'max_steps': 9}, r'config.max_steps \(None, now 9\)'),
            ({'workers': 2}, 'config.workers')]):
        other = read_run(write(f'other{number}', sweep, **changes))
        with pytest.raises(SpecVLAError, match=reason) as error:
            check_together([first, other])
        assert '\n' not in str(error.value) and 'first' in str(error.value)
    with pytest.raises(SpecVLAError, match='given twice'):
        check_together([first, first])


def test_two_decoders_of_one_name_are_refused(write):
    first, other = (read_run(write(name, USUAL)) for name in 'ab')
    check_together([first, other])
    other.decoders['relaxed'] = presets('relaxed_r5')['relaxed_r5']
    with pytest.raises(SpecVLAError, match='decoder relaxed has other settings'):
        check_together([first, other])


def test_of_a_decoder_in_two_runs_the_first_counts(write):
    better = {'ar': USUAL['ar'], 'strict': (8, (6,), 50.0)}
    runs = [read_run(write('a', USUAL)), read_run(write('b', better))]
    _, strict = cells(sections.main_section(runs), 'libero_object', 'ours', 'strict')
    assert strict[0] == ('75.0', '41–93, 6 of 8')


def test_success_is_held_against_ar_of_another_run_time_is_not(write, tmp_path):
    own, ar, late = (
        read_run(write(name, {one: USUAL[one] for one in played}))
        for name, played in (('own', ['relaxed']), ('ar', ['ar', 'strict']), ('late', ['ar'])))
    other_suite = read_run(write('goal', {'ar': (0, (1,), 1.0)}, 'libero_goal'))
    runs = paired([other_suite, own, ar, late])
    _, relaxed = cells(sections.main_section(runs), 'libero_object', 'ours', 'relaxed, r = 9')
    _, in_one_run = cells(sections.main_section([read_run(write('one', USUAL))]),
                          'libero_object', 'ours', 'relaxed, r = 9')
    assert relaxed[:3] == in_one_run[:3] and relaxed[1][1].endswith('8 pairs')
    assert relaxed[3] == ('not measured', 'no `ar` in this run')
    assert [dict(one.rows) for one in runs[2:]] == [ar.rows, late.rows]
    document = tmp_path / 'run.json'
    document.write_text(json.dumps(report([], {}, {}, list(own.rows.values())) | own.identity))
    alone, _ = paired([read_run(document), ar])  # it doesn't say which states were solved
    assert 'success_vs_ar' not in alone.rows['libero_object', 'relaxed']


def test_other_weights_and_machines_of_other_suites_are_marked(write):
    runs = [read_run(write('a', USUAL)),
            read_run(write('b', USUAL, 'libero_goal', target='c' * 64,
                           machine={'cpu': 'another'}))]
    check_together(runs)
    _, parts = make_document(runs, [])
    text = parts[-1].text
    assert 'different weights' in text and 'different machines' in text
    assert 'different' not in make_document(runs[:1], [])[1][-1].text


@pytest.mark.parametrize('changes, reason', [
    ({'drift': {'cm_per_s': 1.0, 'object': 'target', 'span_cm': None}}, '--drift'),
    ({'latency_s': 0.1}, '--latency-s'), ({'safety': {'x': 1}}, '--safety')])
def test_what_is_not_the_papers_evaluation_is_refused(write, changes, reason):
    with pytest.raises(SpecVLAError, match=f'was played with {reason}'):
        read_run(write('run', USUAL, **changes))


def test_what_is_no_run_is_refused_in_one_line(write, tmp_path):
    folder = write('run', USUAL)
    damaged = {
        'no such': tmp_path / 'gone', 'no run.json': tmp_path,
        'no list of rows': tmp_path / 'rows.json', 'is none': tmp_path / 'decoder.json'}
    identity = json.loads((folder / 'run.json').read_text())
    (tmp_path / 'rows.json').write_text(json.dumps(identity))
    identity['config']['decoders']['ar']['drafter'] = 3
    (tmp_path / 'decoder.json').write_text(json.dumps(identity | {'rows': []}))
    for reason, path in damaged.items():
        with pytest.raises(SpecVLAError, match=reason) as error:
            read_run(path)
        assert '\n' not in str(error.value)
    (folder / 'episodes.jsonl').write_text('')
    with pytest.raises(SpecVLAError, match='no episode is finished'):
        read_run(folder)


@pytest.mark.parametrize('change, reason', [
    ({'success_rate': 'all'}, "success_rate is 'all', must be a number"),
    ({'success_interval': [1]}, 'success_interval is'),
    ({'success_vs_ar': {'points': 1.0}}, 'success_vs_ar has no pairs'),
    ({'acceptance': {'length': 3, 'shares': [], 'by_token': {}}}, 'length must be an object'),
    ({'acceptance': {'length': {'value': 1, 'interval': None, 'n': 1}, 'shares': [],
                     'by_token': {'w': 3}}}, 'by_token has w, must be of x, y'),
    ({'passes_per_action': {'mean': 1.0}}, 'passes_per_action has no interval'),
    ({'speedup_vs_ar': []}, 'speedup_vs_ar is'), ({'suite': None}, 'suite is None')])
def test_a_file_with_figures_that_are_none_is_refused(write, tmp_path, change, reason):
    folder = write('run', {'ar': USUAL['ar']})
    row, *_ = rows(EpisodeLog(folder / 'episodes.jsonl').episodes, ['ar'])
    path = tmp_path / 'edited.json'
    path.write_text(json.dumps(json.loads((folder / 'run.json').read_text()) | {
        'rows': [row | change]}))
    with pytest.raises(SpecVLAError, match=reason) as error:
        read_run(path)
    assert '\n' not in str(error.value) and 'edited.json: ' in str(error.value)


@pytest.mark.parametrize('words, reason', [
    ('', 'nothing to report on'), ('--run {run} --trials 3', '--trials 3 has no effect'),
    ('--run {run} --thresholds 3', '--thresholds 3 has no effect'),
    ('--play --suite libero_90', 'is none of the paper'),
    ('--play --safety safety', 'has no envelope'),
    ('--play --thresholds -1', '--thresholds -1: give 0 or more'),
    ('--run {run} --out {run}', 'which is not of `specvla report`'),
    ('--run {run} --json /nowhere/x.json', 'there is no folder'),
    ('--run {run} --run {run}', 'given twice'),
    ('--run {run} --training {run}', 'holds no verdict.json')])
def test_bad_arguments_get_one_line_and_leave_nothing(write, tmp_path, monkeypatch, capfd, words,
                                                      reason):
    monkeypatch.chdir(tmp_path)
    folder = write('run', USUAL)
    before = sorted(tmp_path.rglob('*'))
    assert cli.main(['report', *words.format(run=folder).split()]) == 2
    line, = capfd.readouterr().err.splitlines()
    assert line.startswith('error: ') and reason in line
    assert sorted(tmp_path.rglob('*')) == before


class Page(HTMLParser):
    """Counts what is open, and notes where it points."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ('meta', 'img', 'html'):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ('src', 'href')]

    def handle_endtag(self, tag):
        if tag != 'html':
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_folder_has_everything_and_the_page_needs_no_other_file(write, tmp_path):
    folder = tmp_path / 'report'
    args = ReportArgs(run=(write('run', USUAL),), out=folder, json=tmp_path / 'copy.json')
    for _ in range(2):  # the same command writes it again
        assert run(args) == 0
    assert {path.name for path in folder.iterdir()} == {
        'report.md', 'report.html', 'report.json', 'table1.png', 'table2.png', 'table3.png',
        'figure4.png'}
    page = Page()
    page.feed((folder / 'report.html').read_text())
    assert not page.open and len(page.links) == 4
    assert all(link.startswith('data:image/png;base64,') for link in page.links)
    text = (folder / 'report.md').read_text()
    for name in re.findall(r'!\[.*\]\((.*)\)', text):
        assert (folder / name).is_file()
    widths = {row.count('|') for row in text.splitlines() if row.startswith('| libero_object')}
    assert widths == {8 + 1, 10 + 1, 9 + 1, 7 + 1, 5 + 1}  # Tables 1 to 3, Figure 4, sources
    document = json.loads((tmp_path / 'copy.json').read_text())
    assert document == json.loads((folder / 'report.json').read_text())
    assert [row['decoder'] for row in document['rows']] == ['ar', 'strict', 'relaxed']
    assert document['runs'][0]['machine']['cpu'] == 'a processor'


def test_names_cannot_break_the_page_or_the_tables(write):
    odd = read_run(write('run', USUAL))
    odd.identity['machine']['cpu'] = '<b>|a*b*</b>'
    text = command.writing.markdown('t', 'x', [command.sources_section([odd])])
    row = next(row for row in text.splitlines() if 'libero_object' in row)
    assert '\\|a' in row and len(re.findall(r'(?<!\\)\|', row)) == 6
    page = Page()
    page.feed(command.writing.page('<t>', '', [command.sources_section([odd])], Path()))
    assert not page.open and '<t>' in page.texts


@pytest.fixture
def args(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ReportArgs(play=True, tasks=(0,), trials=2, checkpoint=tiny_checkpoint,
                      suite=('libero_object',))


def test_play_plays_what_is_missing_and_goes_on(args, capsys, monkeypatch):
    assert run(dataclasses.replace(args, thresholds=(3, 9)), FakePlayer()) == 0
    first = capsys.readouterr().out
    assert 'libero_object: ar, strict, relaxed, relaxed_r3' in first and '8 episodes in' in first
    assert run(dataclasses.replace(args, thresholds=(3, 9)), FakePlayer()) == 0
    assert '8 of 8 episodes are in' in capsys.readouterr().out
    folder, = Path('runs').iterdir()
    assert 'specvla' in json.loads((folder / 'report.json').read_text())['runs'][0]['command']


def test_play_leaves_alone_what_a_run_has(args, tiny_checkpoint):
    evaluation.run(EvalArgs(tasks=(0,), trials=2, checkpoint=tiny_checkpoint, out=Path('eval'),
                            decoder=('ar', 'strict')), FakePlayer())
    given = [read_run(Path('eval'))]
    (own, plan), = playing.missing_plans(args, given, Path('out'))
    assert list(plan.decoders) == ['ar', 'relaxed']
    assert plan.folder == Path('out/play-libero_object')
    evaluation.run(EvalArgs(tasks=(0,), trials=2, checkpoint=tiny_checkpoint, out=Path('more'),
                            decoder=('ar', 'relaxed')), FakePlayer())
    assert playing.missing_plans(args, [*given, read_run(Path('more'))], Path('out')) == []


def test_play_refuses_before_it_plays_what_could_not_stand_beside_a_run(args, write, capsys):
    with pytest.raises(SpecVLAError, match='as .*has, with another'):
        run(dataclasses.replace(args, run=(write('run', {'ar': USUAL['ar']}),), out=Path('out')),
            FakePlayer())
    assert not Path('out').exists()


def test_play_takes_the_suites_of_the_checkpoint_and_the_papers_threshold_and_tree(
        args, monkeypatch):
    anywhere = dataclasses.replace(args, suite=())
    assert playing.suites_of(anywhere) == ('libero_object',)
    with monkeypatch.context() as patch:
        patch.setattr(playing.preflight, 'statistics_of', lambda args: frozenset(SUITES))
        assert playing.suites_of(anywhere) == SUITES  # in the order of its tables
    with playing._presets(args, 'libero_10', []) as names:
        assert [Path(name).stem for name in names] == ['ar', 'strict', 'relaxed_r5']
        config = load_preset(names[-1])
        assert roles.role_of(config, 'libero_10') == 'relaxed'
        assert config.drafter == load_preset('relaxed').drafter
    wide = dataclasses.replace(args, tree='paper')
    with playing._presets(wide, 'libero_object', []) as names:
        tree = load_preset(names[-1]).drafter.settings_on('cpu')
        assert tree == {'top_k': 8, 'depth': 5, 'max_nodes': 50}
        assert Path(names[-1]).stem == 'relaxed_tree'


VERDICT = DrafterVerdict(
    'ours', 'libero_object', 'cpu', 'a' * 64, 'd' * 64,
    {'frames': 100.0, 'episodes': 4.0, 'step': 30.0, 'epoch': 3.0, 'minutes': 1.0, 'batch': 10.0,
     'parameters': 1e6, 'learning_rate': 1e-3},
    {name: tuple(DecodedEpisode(f'task0/seed{n}', (0, 5), gained) for n in range(4))
     for name, gained in (('strict', (0, 0, 6, 0, 0, 0, 0)), ('relaxed', (0, 0, 0, 0, 0, 0, 2)),
                          ('strict constant', (0, 12, 0, 0, 0, 0, 0)))})


def other(**changes):
    """Return a drafter of the paper's recipe that gains one token less under strict."""
    shorter = {'strict': tuple(dataclasses.replace(one, gained=(0, 12, 0, 0, 0, 0, 0))
                               for one in VERDICT.episodes['strict'])}
    return dataclasses.replace(VERDICT, **{'recipe': 'paper', 'drafter_sha256': 'e' * 64,
                                           'episodes': VERDICT.episodes | shorter} | changes)


def written(folder, *verdicts):
    folders = []
    for number, verdict in enumerate(verdicts):
        folders.append(folder / f'{number}.training')
        verdict.write(folders[-1])
    return folders


def test_drafters_stand_side_by_side(tmp_path):
    folders = written(tmp_path, VERDICT, other())
    assert read_drafters(folders) == [VERDICT, other()]
    section = drafters_section(read_drafters(folders))
    _, ours = cells(section, 'strict', 'ours')
    assert ours[0] == ('2.00', '2.00–2.00, n 24') and ours[1] == ('', '')
    _, paper = cells(section, 'strict', 'paper')
    assert paper[:2] == [('1.00', '1.00–1.00, n 48'), ('-1.00', '-1.00…-1.00')]
    assert paper[2] == ('3.0 epochs', '30 steps of 10, 100 frames, 1.0 min, rate 0.001')
    assert cells(section, 'strict', 'a constant action')[1][0][0] == '1.00'
    assert cells(section, 'relaxed', 'paper')[1][0][0] == '6.00'
    assert run(ReportArgs(training=tuple(folders), out=tmp_path / 'out')) == 0
    assert (tmp_path / 'out' / 'drafters.png').is_file()
    assert not (tmp_path / 'out' / 'table1.png').exists()


@pytest.mark.parametrize('change, reason', [
    ({'target_sha256': 'f' * 64}, 'has target_sha256 f+, that of'),
    ({'suite': 'libero_goal'}, 'has suite libero_goal'),
    ({'episodes': {'strict': VERDICT.episodes['strict']}}, 'other held-out frames'),
    ({'drafter_sha256': 'd' * 64}, 'is the same drafter')])
def test_drafters_that_cannot_be_compared_are_refused(tmp_path, change, reason):
    with pytest.raises(SpecVLAError, match=reason):
        read_drafters(written(tmp_path, VERDICT, other(**change)))


@pytest.mark.parametrize('content', ['{', '[]', '{"episodes": {}}', '{"episodes": {"a": 3}}',
                                     '{"episodes": {"a": [{"name": 3}]}}'])
def test_a_damaged_verdict_is_refused_in_one_line(tmp_path, content):
    (tmp_path / 'verdict.json').write_text(content)
    with pytest.raises(SpecVLAError, match='verdict.json') as error:
        read_drafters([tmp_path])
    assert '\n' not in str(error.value)


def test_the_screen_shows_table_1_in_80_columns(write):
    console = Console(width=80, file=io.StringIO())
    _, parts = make_document([read_run(write('run', USUAL))], [])
    command._print(parts, console)
    shown = console.file.getvalue()
    assert 'libero_object' in shown and '5 of 8' in shown and 'not measured' in shown
    lines = [text.rstrip() for text in shown.splitlines()[1:]]  # behind the title
    assert max(map(len, lines)) <= 80
    assert all(text[-1] in '┓┩┤┘│┃' for text in lines)  # nothing is cut off


def test_the_recipe_of_the_paper_is_its_table_4():
    recipe = yaml.safe_load((Path(__file__).parents[3] / 'config/recipes/paper.yaml').read_text())
    table = settings()
    assert recipe['batch'] == table.batch_size
    assert recipe['optimizer']['learning_rate'] == table.learning_rate
    assert recipe['optimizer']['warm_up_steps'] == table.warmup_steps
    assert recipe['optimizer']['clip'] == table.gradient_clipping
    assert recipe['weights']['tokens'] == table.p_w
    assert recipe['weights']['features'] == table.v_w
    tree = load_preset('relaxed').drafter.settings_on('cuda')
    assert (tree['top_k'], tree['depth'], tree['max_nodes']) == (
        table.top_k, table.tree_depth, table.max_nodes)

"""Rows, intervals and the JSON document."""

from dataclasses import replace
import io
import json

import pytest
from rich.console import Console

from specvla_ros.benchmark import report, report_tables


@pytest.mark.parametrize('successes, trials, low, high', [
    # R: binom::binom.wilson
    (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (42, 50, 0.7149, 0.9166),
    (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)])
def test_wilson_interval(successes, trials, low, high):
    assert report.wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_figures_of_actions_are_those_of_the_paper(make):
    # 2 + 4 and 6 tokens after the prefill: 12 tokens in 3 passes.
    figures = report.action_figures([
        make.action((2, 4), ms=80.0, drafted=8), make.action((6,), ms=60.0, drafted=5)])
    assert figures['acceptance_length'] == 4.0
    assert figures['acceptance_histogram'] == [0, 0, 1, 0, 1, 0, 1]
    assert figures['target_passes_per_action'] == 2.5
    assert figures['ms_per_action'] == {'mean': 70.0, 'p50': 70.0, 'p95': 79.0}
    assert figures['stage_ms']['prefill'] == 40.0
    assert (figures['drafted'], figures['accepted']) == (13, 9)
    assert 'max_bin_error' not in figures


def test_errors_are_over_the_compared_actions_only(make):
    figures = report.action_figures([
        make.action(deviation=make.deviation(9, 1.0, 0.2)), make.action(),
        make.action(deviation=make.deviation(2, 3.0, 0.4))])
    assert figures['compared_actions'] == 2
    assert figures['max_bin_error'] == 9
    assert figures['mean_abs_error_mm'] == 2.0
    assert figures['mean_abs_error_deg'] == pytest.approx(0.3)


def test_a_crash_is_neither_a_success_nor_a_failure_and_its_times_do_not_count(make):
    slow = make.action(ms=5000.0)
    rows = report.rows([
        make.episode(state=0), make.episode(state=1, success=False),
        make.episode(state=2, success=False, crash='RuntimeError: x', actions=[slow])], ['ar'])
    row = rows[0]
    assert (row['episodes'], row['successes'], row['crashes']) == (2, 1, 1)
    assert row['success_interval'] == list(report.wilson(1, 2))
    assert row['ms_per_action']['mean'] == 100.0


def test_rows_overall_successful_and_by_task(make):
    episodes = [make.episode(name, task, state, success=state == 0)
                for name in ('ar', 'relaxed') for task in (0, 3) for state in (0, 1)]
    rows = report.rows(episodes, ['ar', 'relaxed'])
    assert [(r['decoder'], r['task'], r['subset'], r['episodes']) for r in rows] == [
        ('ar', None, 'all', 4), ('relaxed', None, 'all', 4),
        ('ar', None, 'successful', 2), ('relaxed', None, 'successful', 2),
        ('ar', 0, 'all', 2), ('relaxed', 0, 'all', 2), ('ar', 3, 'all', 2),
        ('relaxed', 3, 'all', 2)]


def test_speedup_is_the_ratio_of_mean_times_against_ar_of_the_same_row(make):
    fast = [make.action((6,), ms=80.0)] * 2
    rows = report.rows([make.episode('ar'), make.episode('relaxed', actions=fast)],
                       ['ar', 'relaxed'])
    assert [row['speedup_vs_ar'] for row in rows[:2]] == [1.0, 1.25]
    without = report.rows([make.episode('relaxed', actions=fast)], ['relaxed'])
    assert without[0]['speedup_vs_ar'] is None


def test_equality_counts_up_to_the_first_difference(make):
    a, b = make.action(), make.action(tokens=range(7))
    reference = [make.episode('ar', state=0, actions=[a, a, a]),
                 make.episode('ar', state=1, actions=[a, a, a])]
    others = [make.episode('strict', state=0, actions=[a, a, a]),
              make.episode('strict', state=1, actions=[a, b, a]),
              make.episode('strict', state=9, actions=[b])]
    assert report.equality(others, reference) == {
        'episodes': 2, 'episodes_equal': 1, 'actions': 5, 'actions_equal': 4,
        'first_differences': [{'task': 0, 'state': 1, 'action': 1}]}


def test_equality_sees_a_trajectory_that_only_ends_earlier(make):
    a = make.action()
    figures = report.equality([make.episode('strict', actions=[a])],
                              [make.episode('ar', actions=[a, a])])
    assert (figures['episodes_equal'], figures['actions_equal'], figures['actions']) == (0, 1, 2)


def test_document_and_tables(make):
    episodes = [make.episode(name, task) for name in ('ar', 'strict', 'relaxed')
                for task in (0, 1)]
    rows = report.rows(episodes, ['ar', 'strict', 'relaxed'])
    document = report.report(['specvla', 'eval'], {'workers': 1}, {'target_sha256': 'ab' * 32,
                                                                 'drafter_sha256': None}, rows)
    assert list(document) == ['specvla', 'command', 'machine', 'versions', 'config', 'checkpoint',
                              'rows']
    json.dumps(document, allow_nan=False)
    screen = io.StringIO()
    report_tables.print_tables(document, Console(file=screen, width=80))
    text = screen.getvalue()
    assert '…' not in text  # nothing is cut off at 80 columns
    assert '2/2' in text and 'abababababab' in text and 'by task' in text


def test_rows_without_any_action_can_be_printed(make):
    rows = report.rows([make.episode(crash='x', actions=[])], ['ar'])
    document = report.report([], {}, {}, rows)
    report_tables.print_tables(document, Console(file=io.StringIO()))
    assert rows[0]['actions'] == 0 and rows[0]['crashes'] == 1


@pytest.mark.parametrize('solved', [('ar',), ('relaxed',), ()])
def test_a_decoder_that_solved_nothing_leaves_its_column_of_solved_episodes_empty(make, solved):
    names = ('ar', 'relaxed')
    rows = report.rows([make.episode(name, success=name in solved) for name in names], names)
    screen = io.StringIO()
    report_tables.print_tables(report.report([], {}, {}, rows), Console(file=screen, width=80))
    assert ('successful episodes only' in screen.getvalue()) == bool(solved)


def test_the_ceiling_is_ar_through_what_no_drafter_shortens(make):
    stages = {'preprocess': 5.0, 'vision': 15.0, 'prefill': 20.0}
    slow = replace(make.action(), stage_ms=stages | {'total': 80.0})
    fast = replace(make.action(), stage_ms=stages | {'total': 50.0})
    rows = report.rows([make.episode('ar', actions=[slow]),
                        make.episode('relaxed', actions=[fast])], ['ar', 'relaxed'])
    assert [row['speedup_ceiling'] for row in rows[:2]] == [2.0, 2.0]
    assert [row['ceiling_share'] for row in rows[:2]] == [0.5, pytest.approx(0.8)]
    lines = report_tables.figure_lines(rows[1])
    assert (lines['its ceiling here'], lines['share of the ceiling']) == ('2.00×', '80 %')
    alone = report.rows([make.episode('relaxed', actions=[fast])], ['relaxed'])
    assert alone[0]['speedup_ceiling'] is alone[0]['ceiling_share'] is None


def test_a_control_step_costs_its_share_of_all_actions(make):
    """Two actions of 10 ms and 7 passes, of which 4 and 1 steps were executed."""
    actions = [replace(make.action(), steps=steps, stage_ms={'total': 10.0}) for steps in (4, 1)]
    row = report.rows([make.episode('ar', actions=actions)], ['ar'])[0]
    assert (row['steps'], row['steps_per_action']) == (5, 2.5)
    assert row['target_passes_per_step'] == pytest.approx(14 / 5)
    assert row['ms_per_step']['mean'] == pytest.approx(20 / 5)
    assert row['ms_per_step']['p50'] == pytest.approx((10 / 4 + 10) / 2)
    lines = report_tables.figure_lines(row)
    assert (lines['control steps executed'], lines['  ms per step, mean']) == ('5', '4.0')
    assert lines['  passes per step'] == '2.80'
    json.dumps(row, allow_nan=False)


def test_an_action_of_one_step_has_no_figures_per_step(make):
    row = report.rows([make.episode('ar')], ['ar'])[0]
    assert not {'steps', 'ms_per_step', 'target_passes_per_step'} & set(row)
    assert report_tables.figure_lines(row)['  ms per step, mean'] == ''
    none = [replace(make.action(), steps=0)]  # the episode ended before any came
    assert 'ms_per_step' not in report.action_figures(none)


@pytest.mark.parametrize('name, most, lines', [
    ('glance_jacobi_relaxed', 18, ['glance_jacobi_', 'relaxed']), ('ar', 2, ['ar']),
    ('heisd (unverified)', 18, ['heisd (unverified)']),
    ('heisd (unverified)', 12, ['heisd', '(unverified)']),
    ('generate-compiled', 12, ['generate-', 'compiled']), ('unbreakable', 3, ['unbreakable'])])
def test_long_names_are_broken_where_they_have_a_joint(name, most, lines):
    assert report_tables.broken(name, most).split('\n') == lines

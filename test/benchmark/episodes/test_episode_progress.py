"""Progress on a screen of 80 columns, and where there is no screen."""

import io

from rich.console import Console

from specvla_ros.benchmark.episodes.episode_progress import EpisodeProgress
from specvla_ros.benchmark.episodes.trial import Playing


def show(make, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, color_system=None)
    with EpisodeProgress(console, 150, [], ['ar', 'strict', 'relaxed']) as progress:
        progress.finished(make.episode('ar'))
        progress.finished(make.episode('strict', crash='RuntimeError: [red]', actions=[]))
        progress.playing(Playing('libero_object', 9, 4, 'relaxed', 43, ', 3 passes'))
    return out.getvalue()


def test_counts_estimate_and_what_is_played_fit_80_columns(make):
    screen = show(make, terminal=True)
    assert '2/150 episodes' in screen and 'left' in screen
    assert 'ar 1/1  strict 0/0  relaxed 0/0  crashes 1' in screen
    assert 'relaxed, task 9 state 4: step 43' in screen
    assert 'crashed: RuntimeError: [red]' in screen  # not taken for markup


def test_a_line_per_episode_where_there_is_no_terminal(make):
    assert show(make, terminal=False).splitlines() == [
        '1/150  libero_object task 0 state 0  ar: solved (2 steps)',
        '2/150  libero_object task 0 state 0  strict: crashed: RuntimeError: [red] (0 steps)']

"""The figures of a replayed bag: rows of a report, and the table on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console

from specvla_ros.bags.frames import LiveAction
from specvla_ros.benchmark.bag_replay.offline import Replayed
from specvla_ros.benchmark.records import ActionRecord, tokens_sha256
from specvla_ros.benchmark.report import action_figures, against_baseline, BASELINE, Report, Row
from specvla_ros.benchmark.report_tables import print_figures, provenance

_FIRST = 10  # frames that differ: at most this many are named
_NOTES = ('Passes count the prefill; acceptance length = tokens per pass after it, bonus\n'
          'included. Equal actions and errors: on the same frame. Missed frames: what a\n'
          'policy that acts on the newest one only would not have seen. Ceiling: what a free\n'
          'drafter that is always right would reach, ar ÷ its image, vision and prefill.')


def rows(played: Sequence[Replayed], live: Mapping[int, LiveAction], decoders: Sequence[str]
         ) -> list[Row]:
    """
    Make a row per decoder.

    :param played: all frames; one without a decoder's action was missed by it
    :param live: recorded actions by the image's stamp, ns
    """
    made = []
    for name in decoders:
        frames = [frame for frame in played if name in frame.actions]
        actions = [frame.actions[name] for frame in frames]
        row: Row = {'decoder': name, 'suite': None, 'task': None, 'subset': 'all',
                    **action_figures(actions), 'tokens_sha256': tokens_sha256(actions)}
        if BASELINE in decoders and name != BASELINE:
            row['tokens_equal_ar'] = _equality(frames, [
                _equal(action, frame.actions.get(BASELINE))
                for frame, action in zip(frames, actions)])
        then = [_as_live(live.get(frame.stamp), action, name)
                for frame, action in zip(frames, actions)]
        if any(equal is not None for equal in then):
            row['tokens_equal_live'] = _equality(frames, then)
        row['missed_frames'] = len(played) - len(frames) or missed_frames(
            [frame.received for frame in frames],
            [action.stage_ms['total'] for action in actions])
        made.append(row)
    return against_baseline(made)


def _equal(action: ActionRecord, other: ActionRecord | None) -> bool | None:
    return None if other is None else action.tokens == other.tokens


def _as_live(live: LiveAction | None, action: ActionRecord, decoder: str) -> bool | None:
    """Whether an action is the recorded one of that decoder; None where there is none."""
    if live is None or live.decoder != decoder:
        return None
    return live.said_again(action.tokens)


def _equality(frames: Sequence[Replayed], equal: Sequence[bool | None]) -> Row:
    """Count the actions that equal the others', where there is another, and name who doesn't."""
    compared = [(frame.number, it) for frame, it in zip(frames, equal) if it is not None]
    different = [number for number, it in compared if not it]
    return {'actions': len(compared), 'actions_equal': len(compared) - len(different),
            'first_differences': different[:_FIRST]}


def missed_frames(received: Sequence[int], latencies: Sequence[float]) -> int:
    """
    Count the frames that a policy would miss because it acts on the newest one only.

    When the policy is free it takes the newest frame; if it has acted on that, it waits for the
    next. It is then busy for as long as the action took in the replay.

    :param received: when each frame came, ns, ascending; latencies: of its action, ms
    """
    if not received:
        return 0
    arrivals = np.asarray(received)
    taken, free = 0, arrivals[0]
    newest = -1
    while True:
        # the newest that is there, or the next one to come
        following = max(int(np.searchsorted(arrivals, free, 'right')) - 1, newest + 1)
        if following >= len(arrivals):
            return len(arrivals) - taken
        taken, newest = taken + 1, following
        free = max(free, arrivals[newest]) + 1e6 * latencies[newest]


def print_table(document: Report, title: str, console: Console) -> None:
    """Print a replay's rows, and the machine and versions below."""
    print_figures(title, document['rows'], console)
    console.print(f'{provenance(document)}\n{_NOTES}', style='dim', highlight=False, markup=False)

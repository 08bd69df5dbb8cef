"""
Play a bag to a real policy node, once per decoder: the engine of `specvla replay --live`.

`python -m specvla_ros.nodes.sessions.replay --spec spec.json --out FOLDER` starts `policy_node` as
a process of its own, publishes the bag's frames and instructions itself (`bag_player`), and tells
of every frame what came back.

Specification, one JSON object, all keys: `ReplaySpec`.

Events, one JSON object a line on stdout, flushed:
    {"event": "ready", "domain_id", "pids": {"policy"}, "logs": {"policy"}}
    {"event": "frame", "decoder", "number", "stamp", "received", "segment", "instruction"}
    {"event": "answer", "decoder", "number", "tokens", "normalized", "si", "target_passes",
              "drafted", "accepted", "acceptance_lengths", "sources", "forbidden", "unverified",
              "risk", "stage_ms", "ros_ms"}        # risk: NaN where it is not known
              # ros_ms: from the image's publishing to the action's arrival, less the policy's time
    {"event": "done"}
    {"event": "error", "message"}                       # the last line; the exit code is not 0

Exit codes are those of `demo_session`. FOLDER/logs/policy.log holds what the node wrote.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
import os
from pathlib import Path
import sys
import threading
import time
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.node import Node

from specvla_ros.bags.frames import Frame, FrameReader, live_actions
from specvla_ros.bags.looks import looks
from specvla_ros.bags.reader import Bag
from specvla_ros.errors import SpecVLAError
from specvla_ros.msg import ActionDelta, DecodeReport
from specvla_ros.nodes import qos
from specvla_ros.nodes.bag_player import BagPlayer
from specvla_ros.nodes.conversions import to_nanoseconds
from specvla_ros.nodes.events import Emit, error_event, events_on_stdout
from specvla_ros.nodes.messages import (
    acceptance_lengths_of,
    deltas_of,
    stage_ms_of,
    unverified_of,
)
from specvla_ros.nodes.runtime import EXIT_BAD_INPUT
from specvla_ros.nodes.sessions.processes import NodeProcess
from specvla_ros.nodes.sessions.session import play_session, set_decoder
from specvla_ros.typed_files import read_json, typed

NAME = 'replay_session'
POLICY = 'policy_node'
_LAST_ANSWER_PATIENCE = 5.0  # s for what is still on its way when a round has ended


@dataclass(frozen=True, slots=True)
class ReplaySpec:
    """
    A session's settings; rate: times the recording's speed, 0 = lockstep.

    execute_steps: control steps between two frames that are sent in lockstep, see `bags.looks`.
    """

    bag: str
    decoders: tuple[str, ...]
    image_topic: str
    instruction_topic: str
    instruction: str
    rate: float
    policy: dict[str, Any]
    action_timeout_s: float
    start_timeout_s: float
    execute_steps: int = 1

    @classmethod
    def read(cls, path: Path) -> ReplaySpec:
        """Read the JSON file, which `specvla replay` has checked."""
        return typed(cls, read_json(path), str(path))


class ReplaySession(Node):
    """
    Starts the policy, plays the bag to it under each decoder, and reports the answers.

    :param emit: called with every event but `error`
    """

    def __init__(self, spec: ReplaySpec, folder: Path, emit: Emit) -> None:
        super().__init__(NAME)
        self._spec, self._emit = spec, emit
        self.finished = False
        self._policy: NodeProcess | None = None
        self._lock = threading.Condition()
        self._actions: dict[int, tuple[ActionDelta, float]] = {}
        self._reports: dict[int, DecodeReport] = {}
        self._bag = Bag(Path(spec.bag))
        self._reader = FrameReader(
            self._bag, spec.image_topic, spec.instruction_topic, spec.instruction)
        self.create_subscription(ActionDelta, 'action', self._on_action, qos.STREAM)
        self.create_subscription(DecodeReport, 'decode_report', self._on_report, qos.STREAM)
        self._player = BagPlayer(self, spec.rate, spec.action_timeout_s)
        self._set_parameters = self.create_client(SetParameters, f'{POLICY}/set_parameters')
        logs = folder / 'logs'
        logs.mkdir(parents=True, exist_ok=True)
        self._policy = NodeProcess('policy', 'specvla_ros.nodes.policy_node.node', {
            # At a rate as well: no arm listens here.
            **spec.policy, 'decoder': spec.decoders[0], 'pacing': 'lockstep'}, logs, os.environ)

    def work(self) -> None:
        """Play every round."""
        self._wait_for_policy()
        self._emit({'event': 'ready', 'domain_id': int(os.environ['ROS_DOMAIN_ID']),
                    'pids': {'policy': self._policy.pid},
                    'logs': {'policy': str(self._policy.log)}})
        for decoder in self._spec.decoders:
            set_decoder(self._set_parameters, decoder, self._policy.check)
            self._play(decoder)
        self._emit({'event': 'done'})
        self.finished = True

    def close(self) -> None:
        """End the policy and close the bag."""
        if self._policy is not None:
            self._policy.stop()
        self._bag.close()

    def _play(self, decoder: str) -> None:
        """Play the bag once; at a rate, some frames stay without an answer."""
        waiting: dict[int, int] = {}  # stamp: number of the frame
        frames: Iterable[Frame] = self._reader
        if self._spec.execute_steps > 1 and not self._spec.rate:
            live = live_actions(self._bag)
            frames = (look.frame for look in looks(self._reader, live, self._spec.execute_steps))
        for sent in self._player.play(frames):
            frame = sent.frame
            self._emit({'event': 'frame', 'decoder': decoder, 'number': frame.number,
                        'stamp': frame.stamp, 'received': frame.received,
                        'segment': frame.segment, 'instruction': frame.instruction})
            waiting |= dict.fromkeys(sent.stamps, frame.number)
            waiting = self._tell_answers(decoder, waiting)
            self._policy.check()
        end = time.monotonic() + _LAST_ANSWER_PATIENCE
        while waiting and time.monotonic() < end:
            with self._lock:
                self._lock.wait(0.05)
            waiting = self._tell_answers(decoder, waiting)

    def _tell_answers(self, decoder: str, waiting: dict[int, int]) -> dict[int, int]:
        """
        Emit what has been answered and reported; return the frames that may still be.

        The policy acts on the newest only: what is older than an answered frame was missed.
        """
        with self._lock:
            complete = sorted(waiting.keys() & self._actions.keys() & self._reports.keys())
            answers = [(stamp, *self._actions.pop(stamp), self._reports.pop(stamp))
                       for stamp in complete]
        for stamp, action, received, report in answers:
            self._emit(_answer(decoder, waiting[stamp], stamp, action, received, report))
        newest = max((waiting[stamp] for stamp in complete), default=-1)
        return {stamp: number for stamp, number in waiting.items() if number > newest}

    def _wait_for_policy(self) -> None:
        end = time.monotonic() + self._spec.start_timeout_s
        while not (self._set_parameters.service_is_ready() and self._player.has_policy
                   and self.count_publishers(self.resolve_topic_name('decode_report'))):
            self._policy.check()
            if time.monotonic() > end:
                raise RuntimeError(f'the policy was not up within {self._spec.start_timeout_s:g} '
                                   f's (start_timeout_s); see {self._policy.log}')
            time.sleep(0.05)

    def _on_action(self, message: ActionDelta) -> None:
        with self._lock:
            self._actions[to_nanoseconds(message.image_stamp)] = (
                message, self.get_clock().now().nanoseconds * 1e-6)

    def _on_report(self, message: DecodeReport) -> None:
        with self._lock:
            self._reports[to_nanoseconds(message.image_stamp)] = message
            self._lock.notify()


def _answer(decoder: str, number: int, stamp: int, action: ActionDelta, received: float,
            report: DecodeReport) -> dict[str, Any]:
    """Return the event of an answer; received: ms, stamp: ns, both of the node's clock."""
    stages = stage_ms_of(report)
    ros_ms = received - stamp * 1e-6 - (stages['total'] - stages['publish'])
    return {
        'event': 'answer', 'decoder': decoder, 'number': number,
        'tokens': list(action.token_ids), 'normalized': list(action.normalized),
        'si': deltas_of(action).tolist(), 'target_passes': report.target_passes,
        'drafted': report.drafted, 'accepted': report.accepted,
        'acceptance_lengths': acceptance_lengths_of(report),
        'sources': list(report.token_sources), 'forbidden': report.forbidden,
        'unverified': unverified_of(report), 'risk': report.risk, 'stage_ms': stages,
        'ros_ms': ros_ms}


def run_session(spec: ReplaySpec, folder: Path, emit: Emit) -> int:
    """Play a session in a ROS domain of its own; return the exit code."""
    return play_session(NAME, lambda: ReplaySession(spec, folder, emit), emit)


def main(arguments: list[str] | None = None) -> int:
    """Play the session a file describes, with the events on stdout."""
    parser = argparse.ArgumentParser(prog='python -m specvla_ros.nodes.sessions.replay',
                                     description='Play a bag to a policy node.')
    parser.add_argument('--spec', type=Path, required=True, help='JSON file, see the module')
    parser.add_argument('--out', type=Path, required=True, help='folder for the log')
    options = parser.parse_args(arguments)
    emit = events_on_stdout()
    try:
        spec = ReplaySpec.read(options.spec)
    except (ValueError, OSError, TypeError) as error:
        emit(error_event(SpecVLAError(f'{options.spec}: {error}')))
        return EXIT_BAD_INPUT
    return run_session(spec, options.out, emit)


if __name__ == '__main__':
    sys.exit(main())

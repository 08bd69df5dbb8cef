"""
Play LIBERO episodes through real nodes, and keep what happened: the engine of `specvla demo`.

`python -m specvla_ros.nodes.sessions.demo --spec spec.json --out FOLDER` starts `policy_node` and
`libero_bridge_node` as two processes of their own, plays every (task, initial state) once per
decoder in lockstep, and records each step from the topics. It draws nothing: tables, plots and
video are made by `benchmark/episodes/demo.py` from the events and files below. (`benchmark/` may
not import rclpy, hence the process boundary.)

Specification, one JSON object; everything but `decoders` has the default shown:
    {"checkpoint": null,            # folder or embedded name; null = libero_object
     "drafter": null,               # folder; null = <checkpoint>/drafters
     "unnorm_key": null,            # null = the checkpoint's only key
     "device": "auto", "dtype": null, "quantization": "none", "chunk": null,
     "decoders": ["ar", "strict", "relaxed"],   # preset names or files, one round each
     "suite": "libero_object",
     "episodes": [[task, state], ...],          # in place of this: "tasks": [0], "states": [0]
     "max_steps": 0,                # 0 = the suite's own limit
     "resolution": 256,             # pixels, square
     "action_timeout_s": 60.0,      # no action within this: the episode counts as crashed
     "start_timeout_s": 300.0,      # both nodes must be up within this
     "threads": 0,                  # torch threads of the policy process; 0 = a core is left
     "execute_steps": 0,            # control steps of an action that are executed, 0 = as the
                                    # checkpoint recommends, else all
     "domain_id": null}             # null = the first free ROS domain

Play order: grouped by task (making another simulator scene costs seconds), then by state, then the
decoders in the order given; so decoders alternate, and share the machine's mood.

Events, one JSON object a line on stdout (nothing else goes there), flushed:
    {"event": "ready", "domain_id", "pids": {"policy", "bridge"}, "logs": {"policy", "bridge"}}
    {"event": "episode_start", "index", "total", "decoder", "suite", "task", "state",
              "instruction", "max_steps"}
    {"event": "step", "index", "step", "steps", "passes", "accepted", "drafted", "ms_total",
              "ros_ms"}         # step: counts actions; steps: control steps, those of it included
    {"event": "episode_end", "index", "decoder", "suite", "task", "state", "instruction",
              "max_steps", "success", "crashed", "message", "steps", "npz"}
              # message: why it crashed, else ''; npz: path, null where there was no action
    {"event": "done", "episodes", "successes", "crashes"}
    {"event": "error", "message"}                       # the last line; the exit code is not 0

The exit code is 0 when the list was played through (failed and crashed episodes included), 2 on
bad input (specification, checkpoint, suite; one clear message in the `error` event), 1 when a
process died or never came up, 130 on Ctrl-C or SIGTERM. Children are gone in every case.

FOLDER/episodes/<decoder>_<task>_<state>.npz, written whole or not at all, the decoder's name
without blanks and brackets (`kerv-unverified`); T = actions taken. Load with
`numpy.load(path, allow_pickle=True)`:
    frames             object [T]        JPEG bytes (RGB, upright, as published on `image`)
    tokens             int64 [T, 7 · E]  action tokens of the control steps that were sent, E
    action_si          float32 [T, 7]    m, rotation vector in rad, gripper (1 = open); the first
                                         of a chunk
    normalized         float32 [T, 7 · E]  as in ActionDelta
    steps              int64 [T]         control steps that were executed, at most E
    target_passes      int64 [T]         the prefill counted
    drafted, accepted  int64 [T]         draft tokens
    image_stamp        int64 [T]         ns, the stamp of the image acted on
    ros_latency_ms     float64 [T]       image stamped -> action received by this process
    ros_overhead_ms    float64 [T]       the same, minus the policy's own total time
    forbidden          int64 [T]         tokens at which the target wanted a forbidden bin
    unverified         int64 [T]         tokens that the target never saw
    risk               float64 [T]       how unsure the target was, 0 to 1; NaN = not known
    sources            str (JSON)        [T][L] where each token came from ('target', 'eagle', ...)
    acceptance_lengths str (JSON)        [T][passes after the prefill], bonus included, ascending
    stage_ms           str (JSON)        [T] {stage name: ms}: queue_age, preprocess, vision,
                                         prefill, draft, verify, publish, total
    success, crashed   bool
    decoder, suite, instruction, message str;  task, state, max_steps int
FOLDER/logs/policy.log and bridge.log hold what the two nodes wrote.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import queue
import sys
import time
from typing import Any

from geometry_msgs.msg import PoseStamped
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from sensor_msgs.msg import Image
import simplejpeg
from std_srvs.srv import Trigger

from specvla_ros.errors import SpecVLAError
from specvla_ros.msg import ActionDelta, DecodeReport, EpisodeStatus
from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import to_nanoseconds, to_rgb
from specvla_ros.nodes.events import Emit, error_event, events_on_stdout
from specvla_ros.nodes.messages import (
    acceptance_lengths_of,
    deltas_of,
    stage_ms_of,
    unverified_of,
)
from specvla_ros.nodes.runtime import EXIT_BAD_INPUT
from specvla_ros.nodes.sessions.processes import NodeProcess
from specvla_ros.nodes.sessions.recording import EpisodeRecording, ReceivedAction, ReportedCost
from specvla_ros.nodes.sessions.session import call, play_session, set_decoder
from specvla_ros.nodes.sessions.session_spec import Round, SessionSpec

NAME = 'demo_session'
POLICY, BRIDGE = 'policy_node', 'libero_bridge_node'
_JPEG_QUALITY = 90
_POLL = 0.2  # s between two looks whether the nodes still live
_LAST_REPORT_PATIENCE = 2.0  # s for what is still on its way when an episode has ended


class SessionNode(Node):
    """
    Starts the two nodes, leads them through the rounds, and records.

    :param emit: called with every event but `error`
    """

    def __init__(self, spec: SessionSpec, folder: Path, emit: Emit) -> None:
        super().__init__(NAME)
        self._spec, self._folder, self._emit = spec, folder, emit
        self.finished = False
        self._processes: list[NodeProcess] = []
        self._messages: queue.SimpleQueue[tuple[Any, float]] = queue.SimpleQueue()
        self._subscribe()
        self._set_parameters = self.create_client(SetParameters, f'{POLICY}/set_parameters')
        self._start_episode = self.create_client(Trigger, f'{BRIDGE}/start_episode')
        logs = folder / 'logs'
        logs.mkdir(parents=True, exist_ok=True)
        for name, module, parameters in (
                ('policy', 'policy_node', spec.policy_parameters),
                ('bridge', 'libero_bridge', spec.bridge_parameters)):
            self._processes.append(NodeProcess(
                name, f'specvla_ros.nodes.{module}.node', parameters, logs, os.environ))

    def work(self) -> None:
        """Play every round."""
        self._wait_for_nodes()
        self._emit({'event': 'ready', 'domain_id': int(os.environ['ROS_DOMAIN_ID']),
                    'pids': {process.name: process.pid for process in self._processes},
                    'logs': {process.name: str(process.log) for process in self._processes}})
        outcomes = [self._play(round_) for round_ in self._spec.rounds]
        self._emit({'event': 'done', 'episodes': len(outcomes),
                    'successes': outcomes.count('success'), 'crashes': outcomes.count('crash')})
        self.finished = True

    def close(self) -> None:
        """End the two nodes."""
        for process in self._processes:
            process.stop()

    def _play(self, round_: Round) -> str:
        """Play one round; return 'success', 'failure' or 'crash'."""
        set_decoder(self._set_parameters, round_.decoder, self._check_processes)
        call(self._start_episode, Trigger.Request(), self._check_processes)
        facts = {'decoder': round_.decoder, 'suite': self._spec.suite,
                 'task': round_.episode.task, 'state': round_.episode.state}
        recording, status = EpisodeRecording(), None
        while status is None or not status.done:
            message, received = self._next_message()
            if not isinstance(message, EpisodeStatus):
                _record(recording, message, received)
            elif message.episode == round_.index:
                if status is None:
                    facts |= {'instruction': message.instruction, 'max_steps': message.max_steps}
                    self._emit({'event': 'episode_start', 'index': round_.index,
                                'total': len(self._spec.rounds), **facts})
                status = message
            self._emit_steps(round_, recording, is_over=False)
        self._wait_for_last_report(round_, recording)
        facts |= {'success': status.success, 'crashed': status.crashed,
                  'message': self._processes[1].last_line('ERROR') if status.crashed else ''}
        self._emit({'event': 'episode_end', 'index': round_.index, **facts, 'steps': status.step,
                    'npz': self._save(round_, recording, status.step, facts)})
        return 'crash' if status.crashed else 'success' if status.success else 'failure'

    def _emit_steps(self, round_: Round, recording: EpisodeRecording, is_over: bool) -> None:
        for step in recording.new_steps(is_over):
            if step.cost.decoder != round_.config.name:
                raise RuntimeError(f'the policy decoded with {step.cost.decoder} where '
                                   f'{round_.config.name} was asked for')
            self._emit({'event': 'step', 'index': round_.index, 'step': step.number,
                        'steps': sum(recording.executed_steps()[:step.number + 1]),
                        'passes': step.cost.target_passes, 'accepted': step.cost.accepted,
                        'drafted': step.cost.drafted,
                        'ms_total': round(step.cost.stage_ms['total'], 3),
                        'ros_ms': round(step.ros_overhead_ms, 3)})

    def _wait_for_last_report(self, round_: Round, recording: EpisodeRecording) -> None:
        end = time.monotonic() + _LAST_REPORT_PATIENCE
        self._emit_steps(round_, recording, is_over=True)
        while not recording.is_complete and time.monotonic() < end:
            message, received = self._next_message()
            _record(recording, message, received)
            self._emit_steps(round_, recording, is_over=True)

    def _save(self, round_: Round, recording: EpisodeRecording, steps: int, facts: dict[str, Any]
              ) -> str | None:
        if not recording.steps:
            return None
        path = self._folder / 'episodes' / round_.file_name
        recording.save(path, steps, **facts)
        return str(path)

    def _wait_for_nodes(self) -> None:
        end = time.monotonic() + self._spec.start_timeout_s
        topics = ('image', 'eef_pose', 'episode', 'action', 'decode_report')
        while not (self._set_parameters.service_is_ready()
                   and self._start_episode.service_is_ready()
                   and all(self.count_publishers(topic) for topic in topics)):
            self._check_processes()
            if time.monotonic() > end:
                raise RuntimeError(
                    f'the nodes were not up within {self._spec.start_timeout_s:g} s '
                    f'(start_timeout_s); see {self._folder / "logs"}')
            time.sleep(0.05)

    def _check_processes(self) -> None:
        """Raise if a node has ended that should not have."""
        for process in self._processes:
            process.check()

    def _next_message(self) -> tuple[Any, float]:
        """Return the next message and when it came (s, node clock); None if it takes long."""
        try:
            return self._messages.get(timeout=_POLL)
        except queue.Empty:
            self._check_processes()
            return None, 0.0

    def _subscribe(self) -> None:
        def keep(message: Any) -> None:
            self._messages.put((message, self.get_clock().now().nanoseconds * 1e-9))

        self.create_subscription(EpisodeStatus, 'episode', keep, qos.LATCHED)
        self.create_subscription(PoseStamped, 'eef_pose', keep, qos.STREAM)
        self.create_subscription(Image, 'image', keep, qos.STREAM)
        self.create_subscription(ActionDelta, 'action', keep, qos.STREAM)
        self.create_subscription(DecodeReport, 'decode_report', keep, qos.STREAM)


def run_session(spec: SessionSpec, folder: Path, emit: Emit) -> int:
    """
    Play a session; return the exit code. Initialises and shuts down rclpy.

    :param folder: gets `episodes/` and `logs/`
    :param emit: called with every event
    """
    return play_session(NAME, lambda: SessionNode(spec, folder, emit), emit, spec.domain_id)


def _record(recording: EpisodeRecording, message: Any, received: float) -> None:
    """Put a message where it belongs; `received`: s, node clock."""
    if isinstance(message, PoseStamped):
        recording.add_observation(to_nanoseconds(message.header.stamp))
    elif isinstance(message, Image):
        jpeg = simplejpeg.encode_jpeg(
            to_rgb(message), quality=_JPEG_QUALITY, colorspace='RGB', colorsubsampling='420')
        recording.add_frame(to_nanoseconds(message.header.stamp), jpeg)
    elif isinstance(message, ActionDelta):
        recording.add_answer(to_nanoseconds(message.image_stamp), ReceivedAction(
            message.sequence, received, deltas_of(message), tuple(message.normalized),
            tuple(message.token_ids)))
    elif isinstance(message, DecodeReport):
        recording.add_cost(to_nanoseconds(message.image_stamp), ReportedCost(
            message.decoder, message.target_passes, message.drafted, message.accepted,
            tuple(acceptance_lengths_of(message)), tuple(message.token_sources),
            stage_ms_of(message), message.forbidden, unverified_of(message), message.risk))


def main(arguments: list[str] | None = None) -> int:
    """Play the session a file describes, with the events on stdout."""
    parser = argparse.ArgumentParser(prog='python -m specvla_ros.nodes.sessions.demo',
                                     description='Play LIBERO episodes through real ROS nodes.')
    parser.add_argument('--spec', type=Path, required=True, help='JSON file, see the module')
    parser.add_argument('--out', type=Path, required=True, help='folder for episodes and logs')
    options = parser.parse_args(arguments)

    emit = events_on_stdout()
    try:
        spec = SessionSpec.read(options.spec)
        options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        emit(error_event(SpecVLAError(str(error))))
        return EXIT_BAD_INPUT
    return run_session(spec, options.out, emit)


if __name__ == '__main__':
    sys.exit(main())

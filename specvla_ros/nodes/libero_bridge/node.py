"""
LIBERO as a robot on ROS topics: it shows camera images, takes actions, and counts successes.

The simulation runs in `work`, in the main thread; the executor's thread only receives actions.

* `lockstep`: an image is published, and the simulation stands still until the action that answers
  it (by `image_stamp`) has come; all control steps in it are taken, then comes the next image.
  Results don't depend on how fast the policy is. An action whose `first_step` is n begins n
  control periods after its image, as if it had come that late (`latency_s` of the policy):
  meanwhile the steps of older ones go on, or the arm stands still.
* `realtime`: a step is taken every 50 ms whatever the policy does. Where no new action has come
  the arm is told to hold still and the gripper to stay as it is; no action is applied twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.execution import StepsAhead
from specvla_ros.libero import suites
from specvla_ros.msg import ActionDelta, EpisodeStatus
from specvla_ros.nodes import qos, waiting
from specvla_ros.nodes.conversions import to_nanoseconds
from specvla_ros.nodes.libero_bridge.action_inbox import ActionInbox
from specvla_ros.nodes.libero_bridge.observation_topics import ObservationTopics
from specvla_ros.nodes.messages import deltas_of
from specvla_ros.nodes.parameters import declare, Parameter
from specvla_ros.nodes.play_list import EpisodeStart, read_play_list
from specvla_ros.nodes.runtime import run

if TYPE_CHECKING:
    from specvla_ros.libero.environment import LiberoEnv, Observation

NAME = 'libero_bridge_node'
PARAMETERS = (
    Parameter('suite', 'libero_object', 'LIBERO suite', choices=suites.SUITES),
    Parameter('tasks', 0, "tasks to play: a number, a list of numbers, a text like '0,2,5-7', or "
              'all', any_type=True),
    Parameter('states', 0, 'stored initial states to play of each task, written like tasks',
              any_type=True),
    Parameter('episodes', '', "in place of tasks and states: TASK:STATES pairs, like '0:0-4 3:7'"),
    Parameter('repeats', 1, 'how often each episode is played in a row', low=1, high=1000),
    Parameter('mode', 'lockstep', 'lockstep: the simulation waits for each action; realtime: it '
              'steps at `rate` whatever the policy does', choices=('lockstep', 'realtime')),
    Parameter('rate', 20.0, "control steps a second in mode realtime; 20 is LIBERO's own",
              unit='Hz', low=0.1, high=100.0),
    Parameter('action_timeout', 60.0, 'lockstep: without an action for this long the episode '
              'counts as crashed', unit='s', low=0.1, high=3600.0),
    Parameter('resend_after', 2.0, 'lockstep: an image not answered for this long is sent again, '
              'under a new stamp, then after twice as long, and so on', unit='s',
              low=0.1, high=3600.0),
    Parameter('max_steps', 0, "control steps an episode may take; 0: the suite's own limit",
              unit='steps', low=0, high=100000),
    Parameter('resolution', 256, 'side of the square camera image', unit='pixels',
              low=64, high=2048),
    Parameter('frame_id', 'panda_link0', "frame of the end-effector pose: the robot's base, as in "
              "config/unnorm/libero.yaml, so that it can be a policy's current_pose"),
    Parameter('camera_frame_id', 'agentview_optical_frame', 'frame of the camera image: x to the '
              'right, y down, z forward (REP 103)'),
    Parameter('wait_for_start', False, 'begin each episode only when ~/start_episode is called'),
    Parameter('exit_when_done', True, 'end the process when every episode has been played'),
)
_LOG_PERIOD = 5.0
_STILL = np.zeros(6)
_OPEN = 1.0
_MOST_STEPS = 100000  # of an episode, see `max_steps`


@dataclass(frozen=True, slots=True)
class AnswerSteps:
    """Control steps, float64 [steps, 7]; first_step: periods from the image to the first one."""

    deltas: np.ndarray
    first_step: int

    @classmethod
    def of(cls, message: ActionDelta) -> 'AnswerSteps':
        """Read a message; raise a SpecVLAError for one that can't be executed."""
        if message.first_step > _MOST_STEPS:
            raise SpecVLAError(f'first_step is {message.first_step}, must be at most '
                               f'{_MOST_STEPS}: no episode is longer')
        return cls(deltas_of(message), message.first_step)


class EpisodeCrash(RuntimeError):
    """An episode could not be played to its end; it counts neither as success nor as failure."""


class LiberoBridgeNode(Node):
    """
    Publishes `image`, `instruction`, `joint_states`, `eef_pose`, `episode`; subscribes `action`.

    :param make_environment: of suite, task and resolution; tests put a fake there
    """

    def __init__(
            self, make_environment: Callable[[str, int, int], 'LiberoEnv'] | None = None) -> None:
        super().__init__(NAME)
        self._values = declare(self, PARAMETERS)
        self._play_list = read_play_list(
            self._values['tasks'], self._values['states'], self._values['episodes'],
            repeats=self._values['repeats'], n_tasks=len(suites.tasks(self._values['suite'])),
            n_states=suites.N_INITIAL_STATES)
        self._make_environment = make_environment or _libero_environment
        self._environment: LiberoEnv | None = None
        self._inbox = ActionInbox[AnswerSteps]()
        self._may_start = threading.Semaphore(0)
        self._topics = ObservationTopics(
            self, self._values['frame_id'], self._values['camera_frame_id'])
        self._instruction_publisher = self.create_publisher(String, 'instruction', qos.LATCHED)
        self._episode_publisher = self.create_publisher(EpisodeStatus, 'episode', qos.LATCHED)
        self.create_service(Trigger, '~/start_episode', self._on_start_episode)
        self.create_subscription(ActionDelta, 'action', self._on_action, qos.STREAM)

    def work(self) -> None:
        """Play every episode of the list."""
        counts = {'success': 0, 'failure': 0, 'crash': 0}
        for index, episode in enumerate(self._play_list):
            outcome = self._play(index, episode)
            counts[outcome] += 1
            self.get_logger().info(
                f'episode {index + 1} of {len(self._play_list)}, task {episode.task}, state '
                f'{episode.state}: {outcome}')
        self.get_logger().info(
            f'done: {counted(len(self._play_list), "episode")}, '
            f'{counted(counts["success"], "success", "successes")}, '
            f'{counted(counts["failure"], "failure")}, '
            f'{counted(counts["crash"], "crash", "crashes")}')
        self._episode_publisher.wait_for_all_acked(Duration(seconds=1))
        if not self._values['exit_when_done']:
            waiting.for_ever()

    def close(self) -> None:
        """Free the simulator."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _play(self, index: int, episode: EpisodeStart) -> str:
        """Play one episode; return 'success', 'failure' or 'crash'."""
        environment = self._environment_of(episode.task)
        if self._values['wait_for_start']:
            self.get_logger().info(f'episode {index + 1} begins when ~/start_episode is called')
            waiting.until(lambda seconds: self._may_start.acquire(timeout=seconds))
        self._wait_for_policy()
        status = EpisodeStatus(
            suite=self._values['suite'], task=episode.task, instruction=environment.instruction,
            episode=index, initial_state=episode.state,
            max_steps=self._values['max_steps'] or environment.max_steps)
        play = self._play_lockstep if self._values['mode'] == 'lockstep' else self._play_realtime
        try:
            observation = environment.reset(episode.state)
            self._inbox.begin_episode()
            self._instruct(environment.instruction)
            play(environment, observation, status)
        except EpisodeCrash as error:
            self.get_logger().error(f'episode {index + 1} crashed: {error}')
            status.crashed = True
        except Exception:  # the simulator's: it ends the episode, not the run
            self.get_logger().error(f'episode {index + 1} crashed: {traceback.format_exc()}')
            status.crashed = True
            self.close()  # whatever state it is in, the next episode starts clean
        status.done = True
        self._publish_status(status)
        return 'crash' if status.crashed else 'success' if status.success else 'failure'

    def _play_lockstep(self, environment: 'LiberoEnv', observation: 'Observation',
                       status: EpisodeStatus) -> None:
        ahead = StepsAhead()
        while self._goes_on(observation, status):
            answer = self._ask(observation)
            for move in ahead.put(answer.deltas, answer.first_step):
                observation = environment.step(move.delta)
                status.step += 1
                if not self._goes_on(observation, status):
                    return

    def _play_realtime(self, environment: 'LiberoEnv', observation: 'Observation',
                       status: EpisodeStatus) -> None:
        period = 1 / self._values['rate']
        steps: list[np.ndarray] = []
        gripper = _OPEN
        tick = time.monotonic()
        while self._goes_on(observation, status):
            self._inbox.show(self._topics.publish(observation))
            tick = self._sleep_until(tick + period)
            if (answer := self._inbox.take_newest()) is not None:
                steps = list(answer.deltas)
            delta = steps.pop(0) if steps else np.append(_STILL, gripper)
            gripper = delta[6]
            observation = environment.step(delta)
            status.step += 1

    def _goes_on(self, observation: 'Observation', status: EpisodeStatus) -> bool:
        """Publish where the episode stands, unless it is over; the end is published once."""
        status.success = bool(observation.success)
        if status.success or status.step >= status.max_steps:
            return False
        self._publish_status(status)
        return True

    def _ask(self, observation: 'Observation') -> AnswerSteps:
        """
        Publish an observation and wait for the answer.

        The image is best effort for most subscribers and may get lost, so it is sent again.
        Nothing has moved meanwhile: the answer to any of its copies is as good.

        :raises EpisodeCrash: none came in time
        """
        timeout, patience = self._values['action_timeout'], self._values['resend_after']
        end = time.monotonic() + timeout
        stamps = {self._topics.publish(observation)}
        while (left := end - time.monotonic()) > 0:
            answer = self._inbox.wait_for(stamps, min(patience, left))
            if answer is not None:
                return answer
            patience *= 2
            stamps.add(self._topics.resend_image(observation))
        raise EpisodeCrash(
            f'no action answered an image within {timeout:g} s (action_timeout); '
            f'{self._inbox.n_unasked} came that answered another one')

    def _sleep_until(self, tick: float) -> float:
        """Sleep; return the time of this tick, or now where it has long passed."""
        late = time.monotonic() - tick
        if late < 0:
            time.sleep(-late)
        elif late > 1 / self._values['rate']:  # steps that were missed are not made up for
            self.get_logger().warning(
                f'the simulation is slower than real time here: a step took {late * 1e3:.0f} ms '
                'longer than it may', throttle_duration_sec=_LOG_PERIOD)
            return tick + late
        return tick

    def _wait_for_policy(self) -> None:
        while not (self._topics.n_viewers
                   and self.count_publishers(self.resolve_topic_name('action'))):
            self.get_logger().info('waiting for a policy: no node subscribes to image and '
                                   'publishes action', throttle_duration_sec=_LOG_PERIOD)
            time.sleep(0.05)

    def _instruct(self, instruction: str) -> None:
        """Publish the instruction, and give it time to arrive before the first image."""
        self._instruction_publisher.publish(String(data=instruction))
        self._instruction_publisher.wait_for_all_acked(Duration(seconds=1))

    def _publish_status(self, status: EpisodeStatus) -> None:
        status.header.stamp = self.get_clock().now().to_msg()
        self._episode_publisher.publish(status)

    def _environment_of(self, task: int) -> 'LiberoEnv':
        if self._environment is None or self._environment.task_id != task:
            self.close()
            suite = self._values['suite']
            self.get_logger().info(f'making {suite} task {task}')
            self._environment = self._make_environment(suite, task, self._values['resolution'])
        return self._environment

    def _on_action(self, message: ActionDelta) -> None:
        try:
            self._inbox.put(
                to_nanoseconds(message.image_stamp), AnswerSteps.of(message), message.sequence)
        except SpecVLAError as error:
            self.get_logger().warning(
                f'refused an action: {error}', throttle_duration_sec=_LOG_PERIOD)

    def _on_start_episode(
            self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._may_start.release()
        response.success = self._values['wait_for_start']
        response.message = '' if response.success else 'wait_for_start is false: nothing waits'
        return response


def _libero_environment(suite: str, task: int, resolution: int) -> 'LiberoEnv':
    from specvla_ros.libero.assets import AssetError
    from specvla_ros.libero.environment import LiberoEnv
    try:
        return LiberoEnv(suite, task, resolution)
    except (AssetError, FileNotFoundError) as error:
        raise SpecVLAError(str(error)) from error


def main(args: Sequence[str] | None = None) -> int:
    """Play the list, or until told to stop; see `runtime.run` for the exit codes."""
    return run(NAME, LiberoBridgeNode, args)


if __name__ == '__main__':
    sys.exit(main())

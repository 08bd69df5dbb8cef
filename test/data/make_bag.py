"""
Make the small real bag beside this file: one LIBERO episode, played by the embedded checkpoint.

    python test/data/make_bag.py test/data/libero_object_2

The camera sends JPEG (quality 95) at 20 Hz as a robot's would, and the policy acts on what comes
out of it, so that a replay sees the same pictures. Needs the simulator; takes half a minute.
"""
from pathlib import Path
import sys

import numpy as np
from rclpy.serialization import serialize_message
from rclpy.time import Time
import simplejpeg

from specvla_ros.bags import frames
from specvla_ros.bags.writer import BagWriter, offered_qos
from specvla_ros.camera import compressed_to_rgb
from specvla_ros.libero.environment import LiberoEnv, PERIOD
from specvla_ros.nodes.messages import action_message, report_message
from specvla_ros.policy import Policy

SUITE, TASK, STATE, DECODER = 'libero_object', 2, 0, 'relaxed'
START = 1_763_800_000 * 10**9  # ns; any time will do
COUNTDOWN = 2 * 10**6  # ns between what is told at the beginning
TOPICS = {
    '/instruction': (frames.STRING, True), '/episode': (frames.EPISODE, True),
    '/image/compressed': (frames.COMPRESSED, False), '/action': (frames.ACTION, False),
    '/decode_report': (frames.REPORT, False)}


def ros_time(nanoseconds):
    return Time(nanoseconds=nanoseconds)


class Recorder:
    """Plays the episode and writes what the nodes would have published."""

    def __init__(self, path):
        self.bag = BagWriter(path)
        for name, (kind, latched) in TOPICS.items():
            self.bag.add_topic(name, kind, [offered_qos(latched=latched)])

    def write(self, topic, nanoseconds, **fields):
        kind, _ = TOPICS[topic]
        self.bag.write(topic, nanoseconds, self.bag.types.serialize(
            self.bag.types.make(kind, **fields)))

    def stamp(self, nanoseconds):
        seconds, rest = divmod(nanoseconds, 10**9)
        return self.bag.types.make('builtin_interfaces/msg/Time', sec=seconds, nanosec=rest)

    def header(self, nanoseconds, frame=''):
        return self.bag.types.make(
            'std_msgs/msg/Header', stamp=self.stamp(nanoseconds), frame_id=frame)

    def status(self, now, environment, step, success, done):
        self.write('/episode', now, header=self.header(now), suite=SUITE, task=TASK,
                   instruction=environment.instruction, episode=0, initial_state=STATE, step=step,
                   max_steps=environment.max_steps, success=success, done=done,
                   crashed=False)

    def frame(self, now, image):
        """Send a frame and return what a subscriber makes of it."""
        jpeg = simplejpeg.encode_jpeg(image, quality=95, colorspace='RGB', colorsubsampling='420')
        fields = dict(header=self.header(now, 'agentview'), format='rgb8; jpeg compressed bgr8',
                      data=np.frombuffer(jpeg, np.uint8))
        self.write('/image/compressed', now, **fields)
        return compressed_to_rgb(self.bag.types.make(frames.COMPRESSED, **fields))

    def action(self, image_stamp, number, action, policy):
        trace, config = action.trace, policy.decoder_config
        now = image_stamp + int(1e6 * trace.stage_ms['total'])
        message = action_message(
            action, policy.dataset, ros_time(image_stamp).to_msg(), number)
        report = report_message(trace, config, message)
        report.queue_age, report.publish_time = 0.0, float('nan')
        report.total_time = trace.stage_ms['total'] / 1e3
        for topic, sent in (('/action', message), ('/decode_report', report)):
            sent.header.stamp = ros_time(now).to_msg()
            self.bag.write(topic, now, serialize_message(sent))


def main(path):
    policy, environment = Policy.load(decoder=DECODER), LiberoEnv(SUITE, TASK)
    recorder, now, step = Recorder(path), START, 0
    recorder.write('/instruction', now, data=environment.instruction)
    observation = environment.reset(STATE)
    recorder.status(now + COUNTDOWN, environment, 0, False, False)
    while not observation.success and step < environment.max_steps:
        now += int(PERIOD * 1e9)
        action = policy.act(recorder.frame(now, observation.image), environment.instruction)
        recorder.action(now, step, action, policy)
        observation = environment.step(action.si[0])
        step += 1
        recorder.status(now + int(PERIOD * 1e9) - COUNTDOWN, environment, step,
                        bool(observation.success), bool(observation.success))
    recorder.bag.finish()
    environment.close()
    print(f'{path}: {step} steps, solved: {bool(observation.success)}')


if __name__ == '__main__':
    main(Path(sys.argv[1]))

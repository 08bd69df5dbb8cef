"""Real node processes in a ROS domain of their own, and a node of the test's to talk to them."""
from collections import defaultdict
import fcntl
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from rcl_interfaces.srv import SetParametersAtomically
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from specvla_ros.msg import ActionDelta, DecodeReport
from std_msgs.msg import String

from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import fill_image
from specvla_ros.nodes.sessions.processes import free_domain
from test.proc import read_each

HERE = Path(__file__).parent
# The machine that runs the tests may be busy with something else.
PATIENCE = 120.0


def wait_until(condition, what, timeout=PATIENCE):
    """Return what `condition` returns once that is true."""
    end = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < end, f'not within {timeout} s: {what}'
        time.sleep(0.01)
    return result


class Process:
    """A node as a process; its output in a file."""

    def __init__(self, command, parameters, environment, log):
        self.log = log
        self._left = []
        arguments = ['--ros-args']
        for name, value in parameters.items():
            arguments += ['-p', f'{name}:={value}']
        with open(log, 'wb') as output:
            self.popen = subprocess.Popen(
                [sys.executable, *command, *arguments], stdout=output, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True)

    @property
    def output(self):
        return self.log.read_text()

    def wait(self, timeout=PATIENCE):
        return self.popen.wait(timeout)

    def interrupt(self, number=signal.SIGINT):
        self.popen.send_signal(number)
        return self.wait()

    def kill(self):
        """End it as `kill -9` does; what it leaves in /dev/shm stays until `tidy`."""
        self._left = [Path(name) for name in read_each(f'{self.popen.pid}/fd/*', os.readlink)
                      if name.startswith('/dev/shm/fastrtps_') and name.endswith('_el')]
        self.popen.kill()
        self.wait()

    def tidy(self):
        """Take away what it left in /dev/shm."""
        for lock in filter(Path.exists, self._left):
            with open(lock) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:  # a port that others use
                    continue
            lock.with_name(lock.name.removesuffix('_el')).unlink(missing_ok=True)
            lock.unlink()

    def says(self, text):
        return wait_until(lambda: text in self.output, f'{text!r} in the output')


class Probe:
    """A node in the test's own process; keeps every message it hears."""

    def __init__(self, domain):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node('probe', context=self.context)
        self.heard = defaultdict(list)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._stopping = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self):
        while not self._stopping:
            self._executor.spin_once(timeout_sec=0.05)

    def close(self):
        self._stopping = True
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def hear(self, kind, topic, qos):
        return self.node.create_subscription(kind, topic, self.heard[topic].append, qos)

    def wait_for(self, topic, count):
        """Wait for so many messages on a topic and return them."""
        wait_until(lambda: len(self.heard[topic]) >= count,
                   f'{count} messages on {topic}; {len(self.heard[topic])} came')
        return self.heard[topic]

    def wait_for_subscribers(self, *publishers, count=1):
        wait_until(lambda: all(p.get_subscription_count() >= count for p in publishers),
                   'subscribers')

    def call(self, kind, service, request):
        future = self.ask(kind, service, request)
        wait_until(future.done, f'answer of {service}')
        return future.result()

    def ask(self, kind, service, request):
        """Call a service without waiting for its answer."""
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(PATIENCE)
        time.sleep(0.3)  # a service that hasn't discovered us yet answers to nobody
        future = client.call_async(request)
        future.add_done_callback(lambda _: self.node.destroy_client(client))
        return future

    def set_parameters(self, **values):
        """Set parameters of the policy node, all or none, and return the answer."""
        future = self.begin_to_set_parameters(**values)
        wait_until(future.done, 'the answer to a change of parameters')
        return future.result().result

    def begin_to_set_parameters(self, **values):
        request = SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        return self.ask(
            SetParametersAtomically, 'policy_node/set_parameters_atomically', request)


class Robot:
    """The other side: a camera, somebody who gives instructions, and ears."""

    def __init__(self, probe, make_image):
        self.probe, self.make_image = probe, make_image
        self.camera = probe.node.create_publisher(Image, 'image', qos.CAMERA_PUBLISHER)
        self.boss = probe.node.create_publisher(String, 'instruction', qos.LATCHED)
        probe.hear(ActionDelta, 'action', qos.STREAM)
        probe.hear(DecodeReport, 'decode_report', qos.STREAM)

    @property
    def actions(self):
        return self.probe.heard['action']

    def connect(self, until):
        self.probe.wait_for_subscribers(self.camera)
        self.probe.wait_for_subscribers(self.boss, count=2)
        until(lambda: all(self.probe.node.count_publishers(topic)
                          for topic in ('action', 'decode_report')), 'publishers')
        time.sleep(0.3)  # their side of the discovery, which we can't see

    def see(self, *color, **image):
        message = self.make_image(color, **image)
        self.camera.publish(message)
        return message

    def watch(self, *color, seconds):
        """Publish images for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.see(*color)
            time.sleep(0.05)

    def say(self, text):
        self.boss.publish(String(data=text))

    def wait_for_actions(self, count):
        return self.probe.wait_for('action', count)


@pytest.fixture
def probe(monkeypatch):
    """Give the probe, and this test a ROS domain of its own."""
    domain = free_domain()
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    made = Probe(domain)
    yield made
    made.close()


@pytest.fixture
def start(probe, tmp_path):
    """Give a function that starts a node, by script of this folder or by module; all end."""
    started = []

    def start(what, parameters=None, **environment):
        command = [str(HERE / what)] if what.endswith('.py') else ['-m', what]
        # The whole environment: LD_LIBRARY_PATH and the mark that it is set go together.
        environment = {**os.environ, 'ROS_PYTHON_CHECK_FIELDS': '1', 'OMP_NUM_THREADS': '1',
                       'FAKE_LOG': str(tmp_path / 'fake.log'), **environment}
        process = Process(command, parameters or {}, environment,
                          tmp_path / f'process{len(started)}.log')
        started.append(process)
        return process

    yield start
    for process in started:
        process.popen.send_signal(signal.SIGINT)  # killed, it would leave /dev/shm/fastrtps_*
    for process in started:
        try:
            process.popen.wait(PATIENCE)
        finally:
            process.popen.kill()
            process.tidy()


@pytest.fixture
def make_image():
    """Give a function that makes an image message of one colour."""
    def make_image(color=(1, 2, 3), stamp=None, size=16):
        message = Image()
        fill_image(message, np.full((size, size, 3), color, np.uint8))
        nanoseconds = time.time_ns() if stamp is None else stamp
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanoseconds, 10**9)
        return message
    return make_image


@pytest.fixture
def robot(probe, make_image):
    return Robot(probe, make_image)


@pytest.fixture
def flood():
    """Give a function that publishes on a topic, at 500 Hz or so, in a thread until the end."""
    stop, threads = threading.Event(), []

    def flood(publisher, make_message, period=0.002):
        def run():
            while not stop.wait(period):
                publisher.publish(make_message())
        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield flood
    stop.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def wait_for_act(tmp_path, until):
    """Give a function that waits until the fake policy is about to act."""
    log = tmp_path / 'fake.log'
    return lambda: until(lambda: log.exists() and 'act' in log.read_text(), 'an action under way')


@pytest.fixture
def until():
    """Give `wait_until`."""
    return wait_until


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory):
    """Save a random OpenVLA of some 100,000 parameters with a drafter; return its folder."""
    from tokenizers import models, pre_tokenizers, Tokenizer
    import torch
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    from specvla_ros.decoding.drafters import EagleConfig, EagleHead
    from specvla_ros.openvla.config import OpenVLAConfig, VisionConfig, ViTConfig
    from specvla_ros.openvla.model import OpenVLA

    torch.manual_seed(0)
    words = ['<unk>', '<s>', '</s>', *(
        'In : What action should the robot take to ? Out pick up alphabet soup and place it in '
        'basket').split()]
    names = [*words, *(f'<{i}>' for i in range(256))]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, '<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tower = ViTConfig(hidden_size=16, depth=2, num_heads=2, mlp_size=32)
    text = LlamaConfig(
        vocab_size=len(names) + 64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, head_dim=8, max_position_embeddings=256,
        rms_norm_eps=1e-6, rope_parameters={'rope_type': 'default', 'rope_theta': 10000.0},
        attn_implementation='sdpa', use_cache=False)
    model = OpenVLA(OpenVLAConfig(VisionConfig(tower, tower, image_size=56), text))
    with torch.no_grad():
        for parameter in (*model.language_model.parameters(), *model.lm_head.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    model.norm_stats = {'libero_object': {'action': {
        'q01': [-0.2] * 6 + [0.0], 'q99': [0.2] * 6 + [1.0], 'mask': [True] * 6 + [False]}}}
    folder = tmp_path_factory.mktemp('checkpoint')
    model.save_pretrained(folder)
    EagleHead(EagleConfig.like(model)).save_pretrained(folder / 'drafter')
    return folder

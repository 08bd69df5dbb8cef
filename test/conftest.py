"""
What all tests share: ROS 2 kept apart from other machines, and which of them run side by side.

`make test` runs most tests in a few processes (pytest-xdist). A test marked `alone` talks over DDS
or looks at the clock, which works only while nothing else keeps the cores busy: such tests run one
by one in the first process, after all others. Whoever uses the fixture `probe` is marked by that.
Without `-n`, all tests run one by one in the order of their files.
"""
import os
from pathlib import Path

from hypothesis import settings
import pytest

# In a test that isn't marked, so that a node it starts ends with an error that says what to do.
UNMARKED = 'mark-the-test-alone'


def domain() -> str:
    """
    Give a ROS domain per run and per process of it, so that none meets another.

    Above 101, DDS ports may collide with those the kernel hands out.
    """
    given, worker = (os.environ.get(name) for name in ('ROS_DOMAIN_ID', 'PYTEST_XDIST_WORKER'))
    if given == UNMARKED or given and not worker:
        return given
    number = int(given or os.getpid())
    return str((number + int((worker or 'gw0').removeprefix('gw'))) % 101 + 1)


os.environ['ROS_DOMAIN_ID'] = domain()
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
# Without these checks, an array of a wrong length is serialised beyond its end.
os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')
os.environ.setdefault('MUJOCO_GL', 'osmesa')
os.environ.setdefault('OMP_NUM_THREADS', '1')  # threads that share a core spin

# Shared cores make single examples slow now and then; that is no failure.
settings.register_profile('specvla', deadline=None, derandomize=bool(os.environ.get('CI')))
settings.load_profile('specvla')


def side_by_side(config: pytest.Config) -> bool:
    """Say whether this process leads others that run the tests."""
    return config.pluginmanager.hasplugin('dsession')


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what needs DDS, and leave each process the tests that are its own."""
    for item in items:
        if 'probe' in item.fixturenames:
            item.add_marker('alone')
    if hasattr(config, 'workerinput'):
        items[:] = [item for item in items if not item.get_closest_marker('alone')]
    elif side_by_side(config):
        items[:] = [item for item in items if item.get_closest_marker('alone')]


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    """Once the others are through, run the tests that want to be alone: one run, one summary."""
    done = yield
    if side_by_side(session.config):
        before = session.testscollected
        terminal = session.config.pluginmanager.get_plugin('terminalreporter')
        terminal.ensure_newline()
        terminal.section('one by one')
        session.perform_collect()
        session.testscollected += before
        for item, following in zip(session.items, [*session.items[1:], None]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return done


@pytest.fixture(autouse=True)
def no_dds_beside_other_tests(request, monkeypatch):
    if not request.node.get_closest_marker('alone'):
        monkeypatch.setenv('ROS_DOMAIN_ID', UNMARKED)


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A random OpenVLA of the smallest size with a random drafter, as a published folder."""
    from tokenizers import models, pre_tokenizers, Tokenizer
    import torch
    from transformers import PreTrainedTokenizerFast

    from specvla_ros.decoding.drafters import EagleConfig, EagleHead
    from specvla_ros.libero import suites
    from specvla_ros.openvla.config import OpenVLAConfig
    from specvla_ros.openvla.model import OpenVLA

    prompt = 'In : What action should the robot take to ? Out pick up the milk'.split()
    told = [word for task in suites.tasks('libero_object') for word in task.instruction.split()]
    words = ['<unk>', '<s>', '</s>', *dict.fromkeys([*prompt, *told])]
    vocabulary = {word: i for i, word in enumerate(words + [f'<a{i}>' for i in range(256)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token='<unk>'))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tower = {'hidden_size': 16, 'depth': 2, 'num_heads': 2, 'mlp_size': 32}
    torch.manual_seed(0)
    model = OpenVLA(OpenVLAConfig.from_dict({
        'model_type': 'openvla', 'image_sizes': [28, 28], 'use_fused_vision_backbone': True,
        'vision_config': {'patch_size': 14, 'registers': 4, 'dino': tower, 'siglip': tower},
        'text_config': {'vocab_size': len(vocabulary) + 64, 'hidden_size': 32,
                        'intermediate_size': 64, 'num_hidden_layers': 2,
                        'num_attention_heads': 4, 'max_position_embeddings': 256}}))
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.5)
        model.lm_head.weight[:len(words)] = 0  # so that most of what it says is an action
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token='<unk>', bos_token='<s>', eos_token='</s>')
    model.norm_stats = {'libero_object': {'action': {
        'q01': [-1.0] * 6 + [0.0], 'q99': [1.0] * 7, 'mask': [True] * 6 + [False]}}}
    folder = tmp_path_factory.mktemp('tiny')
    model.save_pretrained(folder)
    EagleHead(EagleConfig.like(model)).save_pretrained(folder / 'drafter')
    return folder

"""One description of a policy's source, the same for node, commands and session files."""

from dataclasses import fields
from pathlib import Path

import pytest

from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.benchmark.bag_replay import command as replay_bag
from specvla_ros.benchmark.bag_replay import overhead
from specvla_ros.benchmark.bag_replay.command import ReplayArgs
from specvla_ros.benchmark.bag_replay.overhead import OverheadArgs
from specvla_ros.benchmark.episodes import demo
from specvla_ros.benchmark.episodes.demo import DemoArgs
from specvla_ros.benchmark.episodes.evaluation import player_of
from specvla_ros.benchmark.episodes.plan import EvalArgs, make_plan
from specvla_ros.nodes.policy_node import node as policy_node
from specvla_ros.nodes.policy_node.settings import pick, PolicySettings
from specvla_ros.nodes.sessions.session_spec import SessionSpec
from specvla_ros.policy_source import PolicySource

FULL = dict(unnorm_key='libero_object', device='cpu', dtype='bfloat16', quantization='int4',
            chunk=3)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Arguments none of which is a default, folders relative."""
    monkeypatch.chdir(tmp_path)
    for folder in ('there', 'beside'):
        Path(folder).mkdir()
    (tmp_path / 'there' / 'config.json').write_text('{}')
    return dict(checkpoint=Path('there'), drafter=Path('beside'), **FULL)


@pytest.fixture
def parameters(given, tmp_path):
    """Parameters of the node that say the same."""
    return {**FULL, 'checkpoint': str(tmp_path / 'there'), 'drafter': str(tmp_path / 'beside')}


def test_flags_parameters_and_fields_say_the_same(given, parameters):
    source = PolicyArgs(**given).source('strict')
    assert source == PolicySource(
        checkpoint=Path('there'), drafters=Path('beside'), decoder='strict', **FULL)
    assert source.parameters == parameters
    assert source.facts == FULL
    assert {*source.parameters} <= {it.name for it in policy_node.PARAMETERS}
    # A field that is added here has to reach all of them.
    assert len(source.parameters) + 1 == len(fields(PolicySource))
    for field in fields(PolicySource):
        assert getattr(source, field.name) != getattr(PolicySource(), field.name), field.name


def test_what_is_left_out_is_a_default_in_every_form():
    assert PolicyArgs().source('auto_relaxed') == PolicySource()
    defaults = {it.name: it.default for it in policy_node.PARAMETERS}
    assert PolicySource().parameters == {name: defaults[name] for name in PolicySource.names()}
    for content in ({}, PolicySource().parameters, dict.fromkeys(PolicySource.names())):
        assert PolicySource.take(content) == PolicySource() and content == {}


def test_the_node_loads_what_its_parameters_say(parameters):
    values = {it.name: it.default for it in policy_node.PARAMETERS} | parameters
    source = pick(PolicySettings, values | {'decoder': 'bins.yaml'} | {'decoder': 'ar'}).source
    assert source.parameters == parameters
    assert source.decoder.name == 'ar'


@pytest.mark.parametrize('command', ['demo', 'replay', 'overhead'])
def test_a_session_gives_the_node_all_that_a_command_was_given(command, given, parameters):
    if command == 'demo':
        content = demo._specification(
            DemoArgs(suite='libero_object', decoder=('ar',), threads=2, **given),
            'libero_object')
        said = SessionSpec.of(content).policy_parameters
        assert (said.pop('decoder'), said.pop('pacing')) == ('ar', 'lockstep')
    elif command == 'replay':
        class Reader:
            image_topic = '/image'

        said = replay_bag._specification(
            ReplayArgs(bag=Path('there'), threads=2, **given), Reader())['policy']
    else:
        said = overhead._specification(
            OverheadArgs(threads=2, **given), Path('there'), ['ar'])['policy']
    assert said.pop('threads') == 2
    assert said == parameters


def test_an_evaluations_workers_get_it_whole_and_its_report_says_it(given, monkeypatch):
    monkeypatch.setattr('specvla_ros.benchmark.preflight.check_policy',
                        lambda args, decoders: frozenset({'libero_object'}))
    args = EvalArgs(decoder=('strict',), **given)
    plan = make_plan(args)
    # In another working directory: folders are absolute.
    assert player_of(args, plan).source == args.source(plan.decoders['strict']).absolute()
    assert FULL.items() <= plan.config.items()


@pytest.mark.parametrize('chunk', [0, -1, 65])
@pytest.mark.parametrize('check', [
    lambda chunk: make_plan(EvalArgs(chunk=chunk)),
    lambda chunk: demo._check(DemoArgs(suite='libero_object', chunk=chunk)),
    lambda chunk: replay_bag._check(ReplayArgs(bag=Path('there'), chunk=chunk)),
    lambda chunk: overhead._check(OverheadArgs(chunk=chunk)),
])
def test_a_chunk_that_can_not_be_is_refused_before_anything_is_loaded(check, chunk):
    with pytest.raises(ValueError, match=f'--chunk {chunk}'):
        check(chunk)

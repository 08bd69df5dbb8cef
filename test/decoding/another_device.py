"""
On a device that isn't the host's: every operand there, one copy back a pass.

No GPU is needed. Torch lets a device be written in Python; this one computes on the CPU, so
values are right, and refuses what a GPU refuses: operands on different devices, a look at a
tensor's memory. What crosses between host and device is counted.

A device can't be unregistered, so all this runs in a process of its own: `test_another_device.py`
starts it.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from specvla_ros.components import CompletionConfig, Component
from specvla_ros.decoding.cache import StaticCache
from specvla_ros.decoding.completion import Completion
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import (
    ConstantVelocity,
    EagleDrafter,
    GlanceDrafter,
    GlanceSettings,
    HistoryDrafter,
    Jacobi,
    Kalman,
    NoDrafter,
    RelayDrafter,
    Retrieval,
    TreeBudget,
)
from specvla_ros.decoding.drafters.action_memory import ActionMemory
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.confidence import Confidence
from specvla_ros.decoding.rules.sequence import SequenceWise
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.graphs import GraphRunner, Runner
from specvla_ros.openvla.fused_llama import FusedLayers

NAME = 'elsewhere'
COPIES = ('aten::_to_copy', 'aten::copy_')


class There(Tensor):
    """A tensor that says it is on the device; ``held`` are its numbers."""

    @staticmethod
    def __new__(cls, held):
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=torch.device(NAME, 0))

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f'{func}: the device is switched off')


class Device(TorchDispatchMode):
    """
    The device, while it is switched on.

    crossed: copies to the device ('up') and back ('down', the host waits for them).
    kernels: what ran there, in order.
    """

    def __init__(self):
        super().__init__()
        self.crossed = Counter()
        self.kernels = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func._schema.name
        tensors = tensors_in((args, kwargs))
        where = [isinstance(it, There) for it in tensors]
        to_there = any(where)
        if kwargs.get('device') is not None:
            to_there = torch.device(kwargs['device']).type == NAME
            kwargs['device'] = torch.device('cpu')
        if name in COPIES:
            to_there = where[0] if name == 'aten::copy_' else to_there
            from_there = where[-1]
            if to_there != from_there:
                self.crossed['up' if to_there else 'down'] += 1
        elif len({it for it, tensor in zip(where, tensors, strict=True) if tensor.ndim}) > 1:
            raise RuntimeError(f'{name}: operands on different devices')
        if name == 'aten::_local_scalar_dense' and any(where):
            self.crossed['down'] += 1
        args_held, kwargs_held = held((args, kwargs))
        result = func(*args_held, **kwargs_held)
        if to_there and not func.is_view:
            self.kernels.append(name)
        if func._schema.is_mutable and isinstance(args[0], There):
            return args[0]
        return mapped(There, Tensor, result) if to_there else result


def mapped(function, kind, values):
    """Values with all of a kind replaced; torch's own tree_map takes half of the test's time."""
    if isinstance(values, kind):
        return function(values)
    if type(values) in (tuple, list):
        return type(values)([mapped(function, kind, it) for it in values])
    if type(values) is dict:
        return {key: mapped(function, kind, it) for key, it in values.items()}
    return values


def tensors_in(values):
    """All tensors among arguments, in order."""
    found = []
    mapped(found.append, Tensor, values)
    return found


def held(values):
    """Numbers of the tensors that are there."""
    return mapped(lambda it: it.held, There, values)


class HostSide(TorchFunctionMode):
    """What torch does before it asks the device: reading out lists, choosing one kernel."""

    ONE_KERNEL = (functional.scaled_dot_product_attention, functional.rms_norm)

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.tolist and isinstance(args[0], There):
            self.device.crossed['down'] += 1
            return args[0].held.tolist()
        if func in self.ONE_KERNEL and isinstance(args[0], There):
            assert all(isinstance(it, There) for it in tensors_in((args, kwargs or {})))
            self.device.kernels.append(func.__name__)
            return There(func(*held(args), **held(kwargs or {})))
        return func(*args, **kwargs or {})


class Padding(GraphRunner):
    """Pads as graphs do and writes to the same memory each time, but runs the Python."""

    def _capture(self, function, buffers):
        outputs = function(*buffers)

        def replay():
            news = function(*buffers)
            for old, new in zip(tree_leaves(outputs), tree_leaves(news), strict=True):
                old.copy_(new)

        return replay, outputs


@pytest.fixture(scope='module')
def registered():
    _setup_privateuseone_for_python_backend(NAME)


@pytest.fixture
def device(registered, monkeypatch):
    """Switch the device on; decode without inference mode, which knows no such tensors."""
    monkeypatch.setattr(Decoder, 'decode', Decoder.decode.__wrapped__)
    with torch.no_grad(), Device() as device, HostSide(device):
        yield device


def moved(module):
    """Move a module's parameters and buffers; what was made of them before is forgotten."""
    for part in module.modules():
        for name, tensor in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(There(tensor.detach()), requires_grad=False)
        for name, tensor in part.named_buffers(recurse=False):
            part._buffers[name] = There(tensor)
        for fused in ('fused', 'fused_llama', 'fused_towers'):
            part.__dict__.pop(fused, None)
    return module


def eagle(it):
    return it.eagle(3, TreeBudget(3, 4, 12))


def eagle_there(it):
    drafter = eagle(it)
    return EagleDrafter(moved(drafter.head), drafter.budget)


def glance(it):
    return it.glance(4, GlanceSettings(within=3, branches=2))


def glance_there(it):
    drafter = glance(it)
    return GlanceDrafter(moved(drafter.head), drafter.settings)


def history(it):
    return HistoryDrafter(ConstantVelocity())


def relay(*makes):
    return lambda it: RelayDrafter([make(it) for make in (history, *makes)])


def jacobi(it):
    return Jacobi().drafter(None)


def guesser(it):
    return it.guesser(5)


def kalman(it):
    return Kalman().drafter(None)


def retrieval(it):
    return Retrieval(neighbours=3, memory=2).drafter(ActionMemory.empty(it.model))


DRAFTERS = {
    'none': 2 * (lambda it: NoDrafter(),),
    'guesser': (guesser, guesser),
    'eagle': (eagle, eagle_there),
    'history': (history, history),
    'glance': (glance, glance_there),
    'jacobi': (jacobi, jacobi),
    'history+eagle': (relay(eagle), relay(eagle_there)),
    'history+eagle+glance': (relay(eagle, glance), relay(eagle_there, glance_there)),
    'history+jacobi': (relay(jacobi), relay(jacobi)),
    'history+glance+jacobi': (relay(glance, jacobi), relay(glance_there, jacobi)),
    'kalman': (kalman, kalman),
    'history+retrieval+jacobi': 2 * (relay(retrieval, jacobi),),
}


def play(decoder, it):
    """
    Decode three actions in a row, each remembered; tokens and accepted drafts of each.

    How many are drafted may differ: only on the host do merged trees share their beginnings.
    """
    decoder.warm_up(*it.prompt)
    played = []
    for prompt in (it.prompt, it.longer_prompt, it.prompt):
        tokens, trace = decoder.decode(*prompt)
        decoder.drafter.remember(tokens)
        played.append((tokens, [accepted for _, accepted in trace.drafts], trace.bins_off))
        assert trace.risk == trace.risk  # measured
    return played


RUNNERS = pytest.mark.parametrize(
    'runner', [lambda: Runner(), lambda: Padding(torch.device(NAME, 0))], ids=['plain', 'padded'])


@RUNNERS
@pytest.mark.parametrize('rule', [Strict(), Bins(60)])
@pytest.mark.parametrize('name', DRAFTERS)
def test_another_device_says_the_same(lab, registered, monkeypatch, name, rule, runner):
    crossed, trace = on_another_device(lab, monkeypatch, name, rule, runner)
    assert crossed['down'] == trace.target_passes
    if name == 'none' and type(runner()) is Runner:
        assert not crossed['up']  # the roots' embeddings are there already


@RUNNERS
def test_a_budget_there_says_what_ar_says_and_asks_for_no_value(
    lab, registered, monkeypatch, runner
):
    def few(*makes):
        return lambda it: RelayDrafter([make(it) for make in makes], nodes=5)

    monkeypatch.setitem(DRAFTERS, 'few', (
        lambda it: NoDrafter(), few(history, glance_there, kalman, retrieval, jacobi)))
    crossed, trace = on_another_device(
        lab, monkeypatch, 'few', Strict(), runner,
        compare=lambda played: [action[0] for action in played])
    assert trace.drafts[0][0] == 5 and crossed['down'] == trace.target_passes


@RUNNERS
@pytest.mark.parametrize('name', ['none', 'guesser', 'eagle', 'history+eagle+glance',
                                  'history+glance+jacobi'])
def test_a_guard_there_says_the_same_and_costs_two_small_copies(
    lab, registered, monkeypatch, name, runner, every_third
):
    crossed, trace = on_another_device(lab, monkeypatch, name, Bins(60), runner, every_third)
    assert crossed['down'] == trace.target_passes
    if name == 'none' and type(runner()) is Runner:
        # The state, once; the tokens said, for each pass.
        assert crossed['up'] == 1 + trace.target_passes


@RUNNERS
@pytest.mark.parametrize('rule', [SequenceWise(60, 100), Confidence(0.9, 60)])
@pytest.mark.parametrize('name', ['none', 'guesser', 'history+eagle+glance'])
def test_a_rule_that_rates_there_says_the_same_and_costs_two_small_copies(
    lab, registered, monkeypatch, name, rule, runner
):
    crossed, trace = on_another_device(lab, monkeypatch, name, rule, runner)
    assert crossed['down'] == trace.target_passes
    if name == 'none' and type(runner()) is Runner:
        assert crossed['up'] == 1  # nothing is rated, so the tokens said stay here


@RUNNERS
@pytest.mark.parametrize('skips', [True, False])
@pytest.mark.parametrize('guarded', [True, False])
def test_a_completion_there_says_the_same_and_waits_once_for_all_its_tokens(
    lab, registered, monkeypatch, runner, guarded, skips, every_third
):
    """And once more where it asks how like what is known this is."""
    settings = CompletionConfig(
        Component('retrieval'), every=1, skip_above=1e-9 if skips else None)

    def third(it, runner):
        """Decode three actions, the ones before with wrong guesses; make the last one."""
        decoder = it.decoder(history(it), Strict(), runner, every_third if guarded else None)
        decoder = replace(decoder, completion=Completion(settings, retrieval(it)))
        for _ in range(2):
            tokens, _ = decoder.decode(*it.prompt)
            decoder.remember(tokens[::-1])
        device.crossed.clear()
        return decoder.decode(*it.prompt)

    monkeypatch.setattr(Decoder, 'decode', Decoder.decode.__wrapped__)
    device, here, there = Device(), lab(0, 7, 1), lab(0, 7, 1)
    with torch.no_grad():
        expected, _ = third(here, 'plain')
        with device, HostSide(device):
            there.model = moved(lab.new_model(0))
            there.prompt = tuple(map(There, there.prompt))
            tokens, trace = third(there, runner())
    assert tokens == expected and trace.unverified
    assert trace.target_passes == (0 if skips else 1)
    assert device.crossed['down'] == trace.target_passes + 1 + skips


def on_another_device(
    lab, monkeypatch, name, rule, runner, guard=None, compare=lambda played: played
):
    """Compare with the host; return what crosses in one more action, and its trace."""
    make, make_there = DRAFTERS[name]
    here = lab(0, 7, 1)
    expected = play(here.decoder(make(here), rule, 'plain', guard), here)
    there = lab(0, 7, 1)
    drafter_here = guesser(there) if name == 'guesser' else None
    monkeypatch.setattr(Decoder, 'decode', Decoder.decode.__wrapped__)
    with torch.no_grad(), Device() as device, HostSide(device):
        there.model = moved(lab.new_model(0))
        there.prompt, there.longer_prompt = (
            tuple(map(There, prompt)) for prompt in (there.prompt, there.longer_prompt))
        decoder = there.decoder(drafter_here or make_there(there), rule, runner(), guard)
        assert compare(play(decoder, there)) == compare(expected)
        device.crossed.clear()
        _, trace = decoder.decode(*there.prompt)
    return device.crossed, trace


def test_operands_on_two_devices_are_refused(device):
    there = torch.zeros(3, device=NAME)
    with pytest.raises(RuntimeError, match='different devices'):
        there.index_select(0, torch.arange(2))


def test_a_look_at_a_value_is_counted(device):
    there = torch.ones(2).to(NAME)
    assert bool(there[0] > 0)
    assert there.tolist() == [1, 1]
    assert device.crossed == {'up': 1, 'down': 2}


def test_a_layer_of_a_single_token_pass_is_few_kernels(lab, device):
    """On a fast GPU each takes about as long as reading a few MB of weights."""
    text = (llama := moved(lab.new_model(0)).language_model).config
    numbers = torch.arange(8, device=NAME)
    cos, sin = (torch.rand(8, 1, text.head_dim, dtype=torch.float64).to(NAME) for _ in range(2))
    cache = StaticCache(
        2, text.num_key_value_heads, text.head_dim, torch.float64, torch.device(NAME, 0))
    counts = []
    for layers in (llama.layers[:1], llama.layers):
        fused = FusedLayers(layers, text, cos, sin)
        device.kernels.clear()
        mask = (cache.columns <= numbers[:1, None])[None, None]
        fused(torch.rand(1, text.hidden_size).to(NAME, torch.float64), numbers[:1], mask,
              cache.at(numbers[:1]))
        counts.append(Counter(device.kernels))
    assert counts[1] - counts[0] == {
        'rms_norm': 2, 'aten::mm': 2, 'aten::addmm_': 2,  # four products, two add to the sum
        'aten::roll': 1, 'aten::mul_': 1, 'aten::addcmul_': 1, 'aten::index_copy_': 1,
        'scaled_dot_product_attention': 1, 'aten::silu': 1, 'aten::mul': 1}

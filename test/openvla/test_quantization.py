"""Quantised weights: what they compute, what they take up, and what is refused in one line."""

import copy
import subprocess
import sys

import pytest
from safetensors.torch import save_file
import torch
from torch import nn

from specvla_ros.decoding.cache import StaticCache
from specvla_ros.openvla import quantization
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.quantization import (
    check_quantization,
    is_quantized,
    quantize,
    stored_bytes,
)

CPU = torch.device('cpu')


def linears(model):
    """The matrices that are to be quantised, by name."""
    return {name: module for name, module in model.language_model.layers.named_modules()
            if isinstance(module, nn.Linear)}


def seen_weight(linear):
    """What a layer multiplies with: its outputs for the rows of an identity."""
    identity = torch.eye(linear.in_features, dtype=linear.weight.dtype)
    with torch.inference_mode():
        return linear(identity).T


def test_int8_is_off_by_half_a_step_at_most_of_which_a_row_has_255(published):
    plain = OpenVLA.from_pretrained(published.folder)
    quantized = OpenVLA.from_pretrained(published.folder, quantization='int8')
    assert quantized.dtype == torch.float32
    for name, linear in linears(quantized).items():
        weight = linears(plain)[name].weight
        step = weight.abs().amax(dim=1, keepdim=True) / 127.5
        assert (seen_weight(linear) - weight).abs().le(0.501 * step).all()


@pytest.mark.parametrize('inputs, group', [(32, 32), (192, 64), (256, 128)])
def test_int4_is_off_by_half_a_step_at_most_of_which_the_largest_group_that_fits_has_15(
        inputs, group):
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(inputs, 48, bias=False)]).to(torch.bfloat16)
    groups = layers[0].weight.detach().float().unflatten(1, (-1, group))
    step = (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / 15
    quantize(layers, 'int4', CPU)
    off = seen_weight(layers[0]).float().unflatten(1, (-1, group)) - groups
    assert off.abs().le(0.6 * step).all()  # steps are stored in bfloat16: a tenth off, at 15 of 15
    scale_and_zero = inputs // group * 2 * 2  # bytes
    assert stored_bytes(layers.parameters()) == 48 * (inputs // 2 + scale_and_zero)


def test_a_gpu_gets_the_format_of_its_tensor_cores():
    layers = nn.ModuleList([nn.Linear(4096, 11008, device='meta'),
                            nn.Linear(11008, 4096, device='meta')])  # of the 7B
    config = quantization._config(layers, 'int4', torch.device('cuda'))
    assert (config.group_size, config.int4_packing_format) == (128, 'tile_packed_to_4d')


def test_the_fused_llama_computes_what_the_modules_do_and_leaves_them_quantised(published):
    model = OpenVLA.from_pretrained(published.folder, quantization='int8')
    inputs, cache = torch.randn(1, 5, 32), StaticCache(2, 2, 8, torch.float32, CPU)
    rows = torch.arange(5)
    causal = (cache.columns <= rows[:, None])[None, None]
    with torch.inference_mode():
        fused = model.fused_llama(inputs, rows, causal, cache.at(rows))
        torch.testing.assert_close(fused, model(inputs), rtol=1e-4, atol=1e-5)
    assert all(is_quantized(linear.weight) for linear in linears(model).values())


def test_only_the_matrices_of_the_llama_are_quantised(published):
    plain = OpenVLA.from_pretrained(published.folder)
    quantized = OpenVLA.from_pretrained(published.folder, quantization='int8')
    names = {f'language_model.layers.{name}.weight' for name in linears(plain)}
    parameters = dict(quantized.named_parameters())
    assert {name for name, weight in parameters.items() if is_quantized(weight)} == names
    for name, weight in plain.named_parameters():
        assert name in names or torch.equal(weight, parameters[name])


def test_int8_stores_a_byte_a_weight_and_a_scale_and_a_zero_per_row(published):
    model = OpenVLA.from_pretrained(published.folder)
    weights = [linear.weight for linear in linears(model).values()]
    elements, rows = sum(w.numel() for w in weights), sum(len(w) for w in weights)
    before = stored_bytes(model.parameters())
    assert before == sum(4 * weight.numel() for weight in model.parameters())
    quantize(model.language_model.layers, 'int8', CPU)
    assert stored_bytes(model.parameters()) == before - 3 * elements + 5 * rows


def test_a_quantised_model_may_be_converted_but_not_saved(published, tmp_path):
    model = OpenVLA.from_pretrained(published.folder, quantization='int8')
    before = {name: seen_weight(linear) for name, linear in linears(model).items()}
    for name, linear in linears(copy.deepcopy(model).to(CPU).double()).items():
        assert is_quantized(linear.weight)
        assert torch.equal(linear(torch.eye(linear.in_features)).T, before[name])
    with pytest.raises(ValueError, match='the model is quantised: load it without, then save'):
        model.save_pretrained(tmp_path / 'saved')
    assert not (tmp_path / 'saved').exists()


@pytest.mark.parametrize('kind, device, dtype, message', [
    ('int3', 'cpu', None, r"quantization is 'int3', must be one of \['none', 'int8', 'int4'\]"),
    ('int4', 'cpu', torch.float32, "'int4' computes in bfloat16, dtype is float32: leave dtype"),
    ('int4', 'mps', None, "'int4' runs on cpu and cuda, device is 'mps': take 'int8'"),
])
def test_what_does_not_run_is_refused(kind, device, dtype, message):
    with pytest.raises(ValueError, match=message) as error:
        check_quantization(kind, torch.device(device), dtype)
    assert '\n' not in str(error.value)


def test_an_older_gpu_is_refused_for_int4_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Tesla T4')
    with pytest.raises(ValueError, match='capability 8.0 or more, Tesla T4 has 7.5: take .int8'):
        check_quantization('int4', torch.device('cuda'), None)
    check_quantization('int8', torch.device('cuda'), None)


def test_without_torchao_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setattr(quantization, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'torchao>=0.18,<0.19' \(the extra quant"):
        check_quantization('int8', CPU, None)
    check_quantization('none', CPU, None)


def test_a_shape_that_int4_can_not_take_is_named_and_nothing_is_changed(published):
    with pytest.raises(ValueError, match=r"'int4' can't take layer '0.mlp.gate_proj' of shape "
                                         r'\[56, 32\]: its inputs must be a multiple of 32, out'):
        OpenVLA.from_pretrained(published.folder, quantization='int4')
    layers = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 24)]).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"layer '1' of shape \[24, 32\]"):
        quantize(layers, 'int4', CPU)
    assert not any(map(is_quantized, layers.parameters()))


def test_the_weights_are_not_read_if_the_kind_can_not_be(published):
    save_file({'nonsense': torch.zeros(1)}, published.folder / 'model.safetensors')
    with pytest.raises(ValueError, match="quantization is 'int2', must be one of"):
        OpenVLA.from_pretrained(published.folder, quantization='int2')


def test_inductors_settings_stay_as_they_are():
    import torch._inductor.config as settings
    before = settings.coordinate_descent_tuning
    quantize(nn.ModuleList([nn.Linear(32, 32)]), 'int8', CPU)
    quantize(nn.ModuleList([nn.Linear(32, 32)]).to(torch.bfloat16), 'int4', CPU)
    assert settings.coordinate_descent_tuning == before


def test_an_installed_torchao_says_nothing_when_the_model_is_imported():
    command = 'import specvla_ros.openvla.model, sys; assert "torchao" in sys.modules'
    done = subprocess.run([sys.executable, '-c', command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')

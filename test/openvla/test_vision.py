"""The towers against timm's equations, written out on the published tensors."""

import math

import pytest
import torch

from specvla_ros.openvla.model import OpenVLA


def gelu(x):
    """Exact GELU; the tanh form differs by up to 5e-4."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(x, tensors, name):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-6)
    return scaled * tensors[f'{name}.weight'] + tensors[f'{name}.bias']


def linear(x, tensors, name):
    return x @ tensors[f'{name}.weight'].T + tensors[f'{name}.bias']


def tower(tensors, prefix, images, n_blocks, n_heads):
    """Features after ``n_blocks`` blocks of the tower, patches only, [B, P, D]."""
    t = {k.removeprefix(prefix): v.double() for k, v in tensors.items() if k.startswith(prefix)}
    kernel = t['patch_embed.proj.weight']
    width, _, patch, _ = kernel.shape
    batch, _, height, _ = images.shape
    grid = height // patch
    tiles = images.double().reshape(batch, 3, grid, patch, grid, patch)
    x = torch.einsum('bcipjq,dcpq->bijd', tiles, kernel).reshape(batch, grid * grid, width)
    x = x + t['patch_embed.proj.bias'] + t['pos_embed']
    first = 0
    if 'cls_token' in t:
        prefix_tokens = torch.cat((t['cls_token'], t['reg_token']), dim=1)
        first = prefix_tokens.shape[1]
        x = torch.cat((prefix_tokens.expand(batch, -1, -1), x), dim=1)
    for n in range(n_blocks):
        block = f'blocks.{n}'
        qkv = linear(layer_norm(x, t, f'{block}.norm1'), t, f'{block}.attn.qkv')
        q, k, v = qkv.reshape(batch, -1, 3, n_heads, width // n_heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(width // n_heads)).softmax(dim=-1)
        y = linear((weights @ v).transpose(1, 2).reshape(x.shape), t, f'{block}.attn.proj')
        x = x + y * t.get(f'{block}.ls1.scale_factor', 1)
        y = gelu(linear(layer_norm(x, t, f'{block}.norm2'), t, f'{block}.mlp.fc1'))
        x = x + linear(y, t, f'{block}.mlp.fc2') * t.get(f'{block}.ls2.scale_factor', 1)
    return x[:, first:]


def features(tensors, pixel_values):
    """The fused features of the small published checkpoint: second-to-last blocks."""
    dino = tower(tensors, 'vision_backbone.featurizer.', pixel_values[:, :3], 2, 2)
    siglip = tower(tensors, 'vision_backbone.fused_featurizer.', pixel_values[:, 3:], 3, 4)
    return torch.cat((dino, siglip), dim=-1)


@pytest.mark.parametrize('scale', [1, 1e-3])  # at 1e-3 the norms' epsilon decides
def test_features_are_those_of_the_second_to_last_blocks(published, pixel_values, scale):
    for name, tensor in published.tensors.items():
        if any(part in name for part in ('patch_embed', 'pos_embed', 'cls_token', 'reg_token')):
            tensor.mul_(scale)
    model = OpenVLA.from_pretrained(published.write())
    with torch.no_grad():
        ours = model.vision(pixel_values)
        fused = torch.cat([model.fused_towers(image[None]) for image in pixel_values])
    expected = features(published.tensors, pixel_values)
    assert ours.shape == fused.shape == (2, 9, 24 + 16)
    for said in (ours, fused):
        torch.testing.assert_close(said.double(), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_fused_towers_share_the_weights(published, pixel_values, tmp_path):
    model, image = OpenVLA.from_pretrained(published.folder), pixel_values[:1]
    before = model.fused_towers(image)
    for attention in (model.vision.dino.encoder.layer[0].attention,
                      model.vision.siglip.encoder.layers[0].self_attn):
        attention.v_proj.weight.mul_(2)
        attention.k_proj.bias.add_(1)
        attention.v_proj.bias.add_(1)
    after = model.fused_towers(image)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after, model.vision(image), atol=2e-5, rtol=1e-4)
    # A checkpoint of it is like any other.
    model.save_pretrained(tmp_path)
    assert torch.equal(OpenVLA.from_pretrained(tmp_path).fused_towers(image), after)
    assert all(parameter.requires_grad for parameter in model.vision.parameters())


def test_patches_are_projected_with_exact_gelu(published, pixel_values):
    model = OpenVLA.from_pretrained(published.folder)
    with torch.no_grad():
        ours = model.embed_patches(pixel_values)
    t = {k: v.double() for k, v in published.tensors.items()}
    hidden = gelu(linear(features(t, pixel_values), t, 'projector.fc1'))
    expected = linear(gelu(linear(hidden, t, 'projector.fc2')), t, 'projector.fc3')
    torch.testing.assert_close(ours.double(), expected, atol=2e-4, rtol=1e-4)


def test_a_single_backbone_reads_the_first_three_channels(published, pixel_values):
    published.config['use_fused_vision_backbone'] = False
    t = published.tensors
    for name in list(t):
        if name.startswith(('vision_backbone.fused_featurizer.', 'projector.fc3')):
            del t[name]
    t['projector.fc1.weight'], t['projector.fc1.bias'] = torch.randn(32, 24), torch.randn(32)
    t['projector.fc2.weight'] = torch.randn(32, 32)
    model = OpenVLA.from_pretrained(published.write())
    with torch.no_grad():
        ours = model.embed_patches(pixel_values)
        for image, said in zip(pixel_values, ours, strict=True):
            fused = model.embed_image(image[None])[0]
            torch.testing.assert_close(fused, said, atol=2e-4, rtol=1e-3)
    t = {k: v.double() for k, v in t.items()}
    dino = tower(t, 'vision_backbone.featurizer.', pixel_values[:, :3], 2, 2)
    expected = linear(gelu(linear(dino, t, 'projector.fc1')), t, 'projector.fc2')
    torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=1e-4)


def test_what_the_features_never_use_is_not_built(published):
    model = OpenVLA.from_pretrained(published.folder)
    assert len(model.vision.dino.encoder.layer) == 2
    assert len(model.vision.siglip.encoder.layers) == 3
    assert not [name for name, _ in model.named_parameters() if 'mask_token' in name]

"""
Small random checkpoints in the published layout, under the published names.

Written from the names and shapes of the layout, not with the package's own saving, and with all
that a published folder has and the features never use: the last block of each tower, the final
norms and the attention pool.
"""

from collections.abc import Callable
from dataclasses import dataclass
import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tokenizers import models, pre_tokenizers, Tokenizer
import torch

WORDS = 'In : What action should the robot take to pick up milk place it ? Out \n'.split(' ')
N_ACTIONS, PADDING = 256, 16


@dataclass
class Published:
    """A published-layout folder and what is in it."""

    folder: Path
    config: dict
    tensors: dict[str, torch.Tensor]

    def write(self, shards: int = 1) -> Path:
        """(Re)write the folder's config and weights."""
        (self.folder / 'config.json').write_text(json.dumps(self.config))
        for old in self.folder.glob('model*'):
            old.unlink()
        names = sorted(self.tensors)
        if shards == 1:
            save_file(self.tensors, self.folder / 'model.safetensors')
            return self.folder
        weight_map = {}
        for shard in range(shards):
            file = f'model-{shard + 1:05d}-of-{shards:05d}.safetensors'
            part = names[shard::shards]
            save_file({name: self.tensors[name] for name in part}, self.folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = {'metadata': {}, 'weight_map': weight_map}
        (self.folder / 'model.safetensors.index.json').write_text(json.dumps(index))
        return self.folder


def word_tokenizer(n_tokens: int | None = None, pieces: dict[int, str] | None = None) -> Tokenizer:
    """One id per word and punctuation mark, then the action tokens up to ``n_tokens``."""
    names = ['<unk>', '<s>', '</s>', *WORDS]
    names += [f'<{i}>' for i in range((n_tokens or len(names) + N_ACTIONS) - len(names))]
    for index, piece in (pieces or {}).items():
        names[index] = piece
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split('\n', 'isolated'),
            pre_tokenizers.Split(' ', 'removed'),
            pre_tokenizers.Punctuation(),
        ]
    )
    return tokenizer


def vit_tensors(width: int, depth: int, mlp: int, patches: int, dino: bool) -> dict:
    """Names and shapes of one tower behind its prefix, as timm stores them."""
    shapes = {
        'patch_embed.proj.weight': (width, 3, 8, 8),
        'patch_embed.proj.bias': (width,),
        'pos_embed': (1, patches, width),
        'norm.weight': (width,),
        'norm.bias': (width,),
    }
    if dino:
        shapes |= {'cls_token': (1, 1, width), 'reg_token': (1, 4, width)}
    else:
        shapes |= {'attn_pool.latent': (1, 1, width), 'attn_pool.kv.weight': (2 * width, width)}
    for block in range(depth):
        inside = {
            'norm1.weight': (width,),
            'norm1.bias': (width,),
            'attn.qkv.weight': (3 * width, width),
            'attn.qkv.bias': (3 * width,),
            'attn.proj.weight': (width, width),
            'attn.proj.bias': (width,),
            'norm2.weight': (width,),
            'norm2.bias': (width,),
            'mlp.fc1.weight': (mlp, width),
            'mlp.fc1.bias': (mlp,),
            'mlp.fc2.weight': (width, mlp),
            'mlp.fc2.bias': (width,),
        }
        if dino:
            inside |= {'ls1.scale_factor': (width,), 'ls2.scale_factor': (width,)}
        shapes |= {f'blocks.{block}.{name}': shape for name, shape in inside.items()}
    return shapes


def llama_tensors(width: int, mlp: int, depth: int, kv_width: int, rows: int) -> dict:
    """Names and shapes of the Llama, as transformers stores them."""
    shapes = {
        'model.embed_tokens.weight': (rows, width),
        'model.norm.weight': (width,),
        'lm_head.weight': (rows, width),
    }
    for layer in range(depth):
        inside = {
            'input_layernorm.weight': (width,),
            'self_attn.q_proj.weight': (width, width),
            'self_attn.k_proj.weight': (kv_width, width),
            'self_attn.v_proj.weight': (kv_width, width),
            'self_attn.o_proj.weight': (width, width),
            'post_attention_layernorm.weight': (width,),
            'mlp.gate_proj.weight': (mlp, width),
            'mlp.up_proj.weight': (mlp, width),
            'mlp.down_proj.weight': (width, mlp),
        }
        shapes |= {f'model.layers.{layer}.{name}': shape for name, shape in inside.items()}
    return shapes


@pytest.fixture
def make_tokenizer() -> Callable[..., Tokenizer]:
    """Make a word tokenizer of any size, see ``word_tokenizer``."""
    return word_tokenizer


@pytest.fixture
def published(tmp_path) -> Published:
    """Two towers of 24 and 16 wide, 9 patches of 8 px, a Llama of 32 wide with grouped heads."""
    tokenizer = word_tokenizer()
    rows = tokenizer.get_vocab_size() + PADDING
    shapes = {
        f'vision_backbone.featurizer.{name}': shape
        for name, shape in vit_tensors(24, 3, 48, 9, dino=True).items()
    }
    shapes |= {
        f'vision_backbone.fused_featurizer.{name}': shape
        for name, shape in vit_tensors(16, 4, 40, 9, dino=False).items()
    }
    shapes |= {
        'projector.fc1.weight': (160, 40),
        'projector.fc1.bias': (160,),
        'projector.fc2.weight': (32, 160),
        'projector.fc2.bias': (32,),
        'projector.fc3.weight': (32, 32),
        'projector.fc3.bias': (32,),
    }
    shapes |= {
        f'language_model.{name}': shape
        for name, shape in llama_tensors(32, 56, 2, 16, rows).items()
    }
    generator = torch.Generator().manual_seed(0)
    tensors = {
        # Norm weights around 1; all else large enough that every part shows in the result.
        name: torch.randn(shape, generator=generator) * 0.3 + name.endswith('norm.weight')
        for name, shape in shapes.items()
    }
    limits = {'q01': [-1.0] * 6 + [0.0], 'q99': [1.0] * 7, 'mask': [True] * 6 + [False]}
    config = {
        'model_type': 'openvla',
        'vision_backbone_id': 'dinosiglip-vit-so-224px',
        'use_fused_vision_backbone': True,
        'image_sizes': [24, 24],
        'n_action_bins': N_ACTIONS,
        'pad_to_multiple_of': PADDING,
        'torch_dtype': 'bfloat16',
        'vision_config': {
            'patch_size': 8,
            'registers': 4,
            'dino': {'hidden_size': 24, 'depth': 3, 'num_heads': 2, 'mlp_size': 48},
            'siglip': {'hidden_size': 16, 'depth': 4, 'num_heads': 4, 'mlp_size': 40},
        },
        'text_config': {
            'model_type': 'llama',
            'vocab_size': rows,
            'hidden_size': 32,
            'intermediate_size': 56,
            'num_hidden_layers': 2,
            'num_attention_heads': 4,
            'num_key_value_heads': 2,
        },
        'norm_stats': {'libero_object': {'action': limits}},
    }
    result = Published(tmp_path / 'checkpoint', config, tensors)
    result.folder.mkdir()
    tokenizer.save(str(result.folder / 'tokenizer.json'))
    result.write()
    return result


@pytest.fixture
def pixel_values() -> torch.Tensor:
    """Two images for the small checkpoint, float32 [2, 6, 24, 24]."""
    return torch.randn(2, 6, 24, 24, generator=torch.Generator().manual_seed(1))

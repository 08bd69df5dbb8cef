"""
Files beside the weights that say: these weights alone are not the model.

A folder of OpenVLA-OFT has an OpenVLA's configuration, weights and names; its actions come from a
head in a file of its own, so its tokens mean nothing. So the other files of a folder are
checked before its weights are read. Sources of the names: the projects that write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re

from .errors import CheckpointError

_OFT = ('an OpenVLA-OFT folder: actions come from this network, not from tokens, which nothing '
        'here computes; give an OpenVLA that says its actions as tokens')
_LORA = ('an adapter that is not merged: the weights beside it are those from before the '
         'fine-tuning; merge it (PEFT: merge_and_unload, save_pretrained), then leave it out')
_CODEC = ('actions are coded by this file (VQ, FAST), not one token a dimension: nothing here '
          'decodes them')
_QUANTISED = 'stored weights are quantised: give those in floating point'
_SECOND = 'a second set of weights beside {}: which one holds? keep one of them'
# Pattern of a name in the folder, and why it is refused. Files and folders alike.
_SIGNS = (
    ('action_head*', _OFT),
    ('proprio_projector*', _OFT),
    ('noisy_action_projector*', _OFT),
    ('vision_backbone--*', 'an OpenVLA-OFT folder: this file replaces the vision towers (FiLM)'),
    ('*--*_checkpoint.pt', _OFT),
    ('lora_adapter*', _LORA),
    ('adapter_config.json', _LORA),
    ('adapter_model*', _LORA),
    ('vq_*', _CODEC),
    ('vqvae*', _CODEC),
    ('*vq_vae*', _CODEC),
    ('action_tokenizer*', _CODEC),
    ('processing_action_tokenizer.py', _CODEC),
    ('quantize_config.json', _QUANTISED),
    ('quant_config.json', _QUANTISED),
    ('hf_quant_config.json', _QUANTISED),
    ('*.gguf', _QUANTISED),
)
# Endings of weights. What is not read and isn't a training's own state may be a part of the model.
_WEIGHTS = ('.safetensors', '.pt', '.pth', '.bin', '.ckpt', '.npz', '.npy', '.pkl', '.pickle',
            '.joblib', '.h5', '.msgpack', '.onnx')
_TRAINING = re.compile(r'(optimizer|scheduler|scaler|rng_state.*|training_args|random_states.*)'
                       r'\.(pt|pth|bin|pkl)')
# Other formats of the same weights; beside safetensors it is open which are meant.
_OTHER_WEIGHTS = ('pytorch_model*', 'consolidated*', '*.ckpt', 'tf_model*', 'flax_model*',
                  'model.pt', 'model.pth', 'model.bin')
_CODE = 'modeling_prismatic.py'
_CODE_SIGNS = re.compile(
    rb'action_head|proprio_projector|NUM_ACTIONS_CHUNK|ProprioProjector|use_film|MoEOpenVLA')
_REASONING = re.compile(r'(^|[^a-z])(ecot|embodied-cot)([^a-z]|$)', re.IGNORECASE)


def check_folder(folder: Path, also: str = '') -> None:
    """
    Raise CheckpointError for a file that contradicts the weights, with the reason.

    also: name of a file that is read where there is no ``model*.safetensors``.
    """
    if _REASONING.search(folder.resolve().name):
        raise CheckpointError(
            f'{folder} is named like an ECoT checkpoint: it writes its reasoning before the '
            'action and has another prompt, neither of which is done here')
    for path, reason in _found(folder):
        raise CheckpointError(f'{folder} holds {path.name}, {reason}')
    read = sorted(folder.glob('model*.safetensors'))
    for pattern in _OTHER_WEIGHTS if read else ():
        for path in sorted(folder.glob(pattern)):
            raise CheckpointError(f'{folder} holds {path.name}, {_SECOND.format(read[0].name)}')
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _WEIGHTS and path not in read and path.name != also \
                and not _TRAINING.fullmatch(path.name):
            raise CheckpointError(
                f'{folder} holds {path.name}, weights that nothing here reads: if the model needs '
                'them, its actions would be wrong; if not, take the file away')
    code = folder / _CODE
    if code.is_file() and (sign := _CODE_SIGNS.search(code.read_bytes())):
        raise CheckpointError(
            f'{code} is not the code of an OpenVLA (it speaks of {sign[0].decode()}): the model '
            'computes something else, which nothing here does')


def check_shards(folder: Path, listed: set[str]) -> None:
    """Raise CheckpointError for weights beside those that are read."""
    for path in sorted(folder.glob('model*.safetensors')):
        if path.name not in listed:
            raise CheckpointError(
                f'{folder} holds {path.name} beside {min(listed)}, and no index lists it: which '
                'weights hold? take the others away')


def _found(folder: Path) -> Iterator[tuple[Path, str]]:
    for pattern, reason in _SIGNS:
        for path in sorted(folder.glob(pattern)):
            yield path, reason

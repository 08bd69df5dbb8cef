"""Whether regenerated shards are what their manifest says, before anything learns from them."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.regenerated import frame_type, Manifest, Shard
from specvla_ros.typed_files import naming


def check_shards(
    folder: Path, manifest: Manifest, shards: Sequence[Shard], model: OpenVLA, unnorm_key: str
) -> None:
    """
    Refuse shards that don't fit their manifest or this target.

    Of the records only the tokens are read: all of them may be many GB.

    :raises SpecVLAError: the size of images or actions is another than the target's, or a shard
        holds records of another layout, tokens that are no action tokens, or fewer frames
    """
    for name, found, wanted in (
            ('image_size', manifest.image_size, model.config.image_size),
            ('length', manifest.length,
             model.action_dim(unnorm_key) * (model.config.chunk or 1))):
        if found != wanted:
            raise SpecVLAError(f'{folder} was made with {name} {found}, this target has {wanted}: '
                               'regenerate')
    tokenizer, hidden = model.action_tokenizer, model.config.text_config.hidden_size
    first, last = tokenizer.first_id, tokenizer.first_id + tokenizer.n_bins - 1
    prompts: dict[str, int] = {}
    for shard in shards:
        place = folder / f'{shard.name}.npy'
        if shard.instruction not in prompts:
            with naming(place):
                prompts[shard.instruction] = len(model.prompt_ids(shard.instruction))
        kind = frame_type(
            model.config.n_patches, model.config.n_patches + prompts[shard.instruction], hidden,
            manifest.paths, manifest.length, manifest.features)
        records = shard.records
        if records.ndim != 1 or records.dtype != kind:
            raise SpecVLAError(f'{place} is an array {list(records.shape)} of other records than '
                               'its manifest and this target make: delete it and regenerate')
        tokens = records['tokens']
        if len(tokens) and not first <= tokens.min() <= tokens.max() <= last:
            raise SpecVLAError(f'{place} holds tokens {tokens.min()} to {tokens.max()}, those of '
                               f'actions are {first} to {last}: delete it and regenerate')
    if (count := sum(map(len, shards))) != manifest.frames:
        raise SpecVLAError(f'{folder} holds {count} frames, its manifest counts '
                           f'{manifest.frames}: delete it and regenerate')


def check_finite(values: Tensor, located: Sequence[tuple[Shard, int]]) -> None:
    """
    Refuse frames with a number that is not finite, float32 [B, …]; located: where each is from.

    :raises SpecVLAError: names the first of them
    """
    if values.sum().isfinite():  # shards hold float16: in float32 a sum of such can't overflow
        return
    for (shard, frame), value in zip(located, values, strict=True):
        if not value.isfinite().all():
            raise SpecVLAError(f'{shard.name}.npy, frame {frame}: a number is not finite: delete '
                               'the file and regenerate')

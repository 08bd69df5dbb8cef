"""
``preprocessor_config.json``: with which mean and deviation a checkpoint normalises its pixels.

The published file is that of OpenVLA's image processor: per tower a size, an interpolation, mean
and standard deviation, and once more, under ``tvf_*``, what torchvision's functions are called
with. Where both are there the reference calls them with ``tvf_*`` (rounded to bfloat16 in the
published 7B), and so do we. The interpolation has nothing to do: OpenVLA's data loader has
brought the frames to the network's size before. A file that asks for anything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
from pathlib import Path

from .config import OpenVLAConfig
from .json_file import Fields, finite, is_there, read_object, shown

FILE = 'preprocessor_config.json'
_PROCESSOR = 'processor_config.json'  # transformers 5 writes it there, under image_processor
_ROUNDING = 0.01  # more than bfloat16's between a mean and its copy under tvf_normalize_params
_INTERPOLATIONS = {'bicubic': 3, 'lanczos': 1}  # with the numbers torchvision gives them
_MOST_STD = 100.0

Colours = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """
    Mean and standard deviation of R, G, B in [0, 1], for DINOv2 and for SigLIP.

    The defaults are the published: ImageNet's, and 0.5.
    """

    dino_mean: Colours = (0.485, 0.456, 0.406)
    dino_std: Colours = (0.229, 0.224, 0.225)
    siglip_mean: Colours = (0.5, 0.5, 0.5)
    siglip_std: Colours = (0.5, 0.5, 0.5)

    def __str__(self) -> str:
        """Return the four in words."""
        pairs = ((self.dino_mean, self.dino_std), (self.siglip_mean, self.siglip_std))
        return ' and '.join(f'mean {_colours(mean)}, deviation {_colours(std)}'
                            for mean, std in pairs)


def read_normalisation(folder: Path, config: OpenVLAConfig) -> Normalisation:
    """
    Read what a checkpoint says of its pixels; without a file the published values hold.

    Raises CheckpointError, naming file and key, for a preparation that isn't done here.
    """
    fields = _fields(folder)
    if fields is None:
        return Normalisation()
    _check_file(fields)
    towers = 2 if config.vision_config.siglip else 1
    _check_sizes(fields, config.image_size, towers)
    return Normalisation(*_means_and_stds(fields, towers))


def write_preprocessor(
    folder: Path, normalisation: Normalisation, config: OpenVLAConfig
) -> None:
    """Write ``preprocessor_config.json``; ``read_normalisation`` reads it."""
    towers, size = 2 if config.vision_config.siglip else 1, config.image_size
    means = [normalisation.dino_mean, normalisation.siglip_mean]
    stds = [normalisation.dino_std, normalisation.siglip_std]
    content = {
        'image_processor_type': 'PrismaticImageProcessor',
        'image_resize_strategy': 'resize-naive',
        'input_sizes': [[3, size, size]] * towers,
        'interpolations': ['bicubic'] * towers,
        'means': means[:towers],
        'stds': stds[:towers],
        'use_fused_vision_backbone': towers == 2,
    }
    (folder / FILE).write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def _fields(folder: Path) -> Fields | None:
    path = folder / FILE
    if is_there(path):
        return Fields(read_object(path), str(path))
    path = folder / _PROCESSOR
    if is_there(path):
        fields = Fields(read_object(path), str(path))
        if fields.content.get('image_processor') is not None:
            return fields.section('image_processor')
    return None


def _check_file(fields: Fields) -> None:
    """Refuse another processor, or keys that may change pixels."""
    fields.only('image_processor_type', 'PrismaticImageProcessor')
    fields.only('image_resize_strategy', 'resize-naive',
                why="frames are squeezed to a square, as OpenVLA's data loader does")
    fields.only('tvf_do_letterbox', False, why='frames are squeezed to a square')
    fields.only('tvf_letterbox_fill')
    fields.flag('use_fused_vision_backbone', None)
    fields.known("""
        image_processor_type image_resize_strategy input_sizes interpolations means stds
        tvf_crop_params tvf_do_letterbox tvf_letterbox_fill tvf_normalize_params
        tvf_resize_params use_fused_vision_backbone
    """.split(), ('auto_map', 'processor_class', 'feature_extractor_type', 'transformers_version'))


def _check_sizes(fields: Fields, size: int, towers: int) -> None:
    """Every size a file gives must be the network's, and the resize one that is done."""
    fused = fields.content.get('use_fused_vision_backbone')
    if fused is not None and fused != (towers == 2):
        fields.refuse('use_fused_vision_backbone', f'{str(towers == 2).lower()} by config.json')
    for found in fields.items('input_sizes', [[3, size, size]] * towers, towers):
        if found != [3, size, size] or any(isinstance(n, bool) for n in found):
            fields.refuse('input_sizes', f'{[[3, size, size]] * towers} by config.json')
    for found in fields.items('interpolations', ['bicubic'] * towers, towers):
        if not isinstance(found, str) or found not in _INTERPOLATIONS:
            fields.refuse('interpolations', f'each one of {list(_INTERPOLATIONS)}')
    for index, found in enumerate(fields.items('tvf_crop_params', [], towers) or []):
        crop = Fields(found, fields.file, f'tvf_crop_params[{index}]')
        crop.known({'output_size'})
        crop.only('output_size', [size, size], size, why="the network's size")
    for index, found in enumerate(fields.items('tvf_resize_params', [], towers) or []):
        resize = Fields(found, fields.file, f'tvf_resize_params[{index}]')
        resize.known({'antialias', 'interpolation', 'max_size', 'size'})
        resize.only('antialias', True)
        resize.only('interpolation', *_INTERPOLATIONS.values(), *_INTERPOLATIONS)
        resize.only('max_size')
        resize.only('size', [size, size], why="the network's size: frames are squeezed to it")


def _means_and_stds(fields: Fields, towers: int) -> list[Colours]:
    """Mean and deviation of DINOv2, then of SigLIP where it is there."""
    result: list[Colours] = []
    known = Normalisation()
    defaults = {'means': (known.dino_mean, known.siglip_mean),
                'stds': (known.dino_std, known.siglip_std)}
    given = {key: fields.items(key, None, towers) for key in defaults}
    called = fields.items('tvf_normalize_params', None, towers)
    for tower in range(towers):
        inside = None
        if called is not None:
            inside = Fields(called[tower], fields.file, f'tvf_normalize_params[{tower}]')
            inside.known({'inplace', 'mean', 'std'})
            inside.flag('inplace', None)
        for key, name in (('means', 'mean'), ('stds', 'std')):
            value = defaults[key][tower]
            if given[key] is not None:
                value = _three(given[key][tower], fields, f'{key}[{tower}]', key == 'stds')
            if inside is not None:
                stated, value = value, _three(
                    inside.content.get(name), inside, name, key == 'stds')
                if given[key] is not None and max(
                        abs(a - b) for a, b in zip(stated, value, strict=True)) > _ROUNDING:
                    raise inside.error(f'{name} is {_colours(value)}, but {key}[{tower}] is '
                                       f'{_colours(stated)}: must be the same')
            result.append(value)
    return result


def _three(value: object, fields: Fields, name: str, positive: bool) -> Colours:
    """Three finite numbers, for R, G and B."""
    found = value if isinstance(value, list) else []
    numbers = [number for number in map(finite, found) if number is not None]
    if len(found) != 3 or len(numbers) != 3 or any(
            number > _MOST_STD or number < (1e-3 if positive else -_MOST_STD)
            for number in numbers):
        raise fields.error(
            f'{name} is {shown(value)}, must be three {"positive" if positive else "finite"} '
            'numbers, for red, green and blue')
    red, green, blue = numbers
    return red, green, blue


def _colours(values: Colours) -> str:
    return '/'.join(f'{value:.4g}' for value in values)

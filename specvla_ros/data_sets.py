"""What a data set's actions and images mean on a robot, from files in ``config/unnorm``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
import math
from pathlib import Path
from typing import Any

from specvla_ros.configuration import config_folder
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.typed_files import check_keys, is_number, naming, read_yaml

# What three numbers of an action can mean as a rotation; `rotation` computes with them.
ROTATIONS = ('rotation_vector', 'euler_xyz')


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """
    How a data set's frames became the network's pictures in training; deployed, it is the same.

    All frames are squeezed to the network's square by an antialiased Lanczos, as OpenVLA's data
    loader does. The defaults are its own, without image augmentation.

    jpeg: a JPEG round trip (quality 95, 4:2:0) comes first.
    crop_area: share of the area that is kept, in the centre, and enlarged to the square again:
        1 = the whole frame; 0.9 for a model that was trained with random crops of this area.
    """

    jpeg: bool = True
    crop_area: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.jpeg, bool):
            raise SpecVLAError(f'image jpeg is {shown(self.jpeg)}, must be true or false')
        if not is_number(self.crop_area) or not 0 < self.crop_area <= 1:
            raise SpecVLAError(
                f'image crop_area is {shown(self.crop_area)}, must be a share above 0, at most 1')

    @classmethod
    def of(cls, content: object) -> ImagePreparation:
        """Read what a file says; raises SpecVLAError if it is of another form."""
        names = {setting.name for setting in fields(cls)}
        if not isinstance(content, Mapping) or set(content) != names:
            raise SpecVLAError(f'image is {shown(content)}, must be a mapping with exactly '
                               f'{sorted(names)}')
        return cls(**content)

    def __str__(self) -> str:
        crop = 'whole frame' if self.crop_area == 1 else \
            f'centre crop of {100 * self.crop_area:g} % of the area'
        return f'{"JPEG round trip" if self.jpeg else "no JPEG round trip"}, {crop}'


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """
    What the actions and images of a data set mean, so that a robot can be moved by them.

    unnorm_key: name of the data set in the checkpoint's statistics.
    frame_id: ROS frame the deltas are expressed in.
    translation_scale_m, rotation_scale_rad: metres and radians one unit of action stands for.
    rotation: what its three angles are: 'rotation_vector' (axis times angle), or 'euler_xyz'
        (turns about the fixed x, then y, then z axis of the frame: roll, pitch, yaw).
    gripper_closed, gripper_open: what the data set calls closed and open.
    period_s: seconds between two actions.
    mirror_image: the model was trained on frames mirrored left to right.
    image: how its frames were prepared beyond that.
    """

    unnorm_key: str
    frame_id: str
    translation_scale_m: float
    rotation_scale_rad: float
    rotation: str
    gripper_closed: float
    gripper_open: float
    period_s: float
    mirror_image: bool
    image: ImagePreparation = ImagePreparation()

    def __post_init__(self) -> None:
        for name in ('translation_scale_m', 'rotation_scale_rad', 'period_s'):
            value = getattr(self, name)
            if not is_number(value) or not (0 < value < math.inf):
                raise SpecVLAError(f'{name} of {self.unnorm_key} is {value!r}, must be positive')
        for name in ('gripper_closed', 'gripper_open'):
            value = getattr(self, name)
            if not is_number(value) or not math.isfinite(value):
                raise SpecVLAError(f'{name} of {self.unnorm_key} is {value!r}, must be a number')
        if self.rotation not in ROTATIONS:
            raise SpecVLAError(f'rotation of {self.unnorm_key} is {self.rotation!r}, must be one '
                               f'of {", ".join(ROTATIONS)}')
        if self.gripper_closed == self.gripper_open:
            raise SpecVLAError(
                f'gripper_closed and gripper_open of {self.unnorm_key} are both '
                f'{self.gripper_open!r}, must differ'
            )
        if not isinstance(self.mirror_image, bool):
            raise SpecVLAError(
                f'mirror_image of {self.unnorm_key} is {self.mirror_image!r}, '
                'must be true or false'
            )
        if not isinstance(self.frame_id, str) or not self.frame_id:
            raise SpecVLAError(
                f'frame_id of {self.unnorm_key} is {self.frame_id!r}, must name a frame'
            )


def load_dataset(unnorm_key: str) -> DatasetConfig:
    """
    Read the meaning of a data set's actions from ``config/unnorm``.

    ``<unnorm_key>.yaml`` if there is one, else the file that lists the key under ``keys``.
    Raises SpecVLAError, listing the keys there are, if neither exists.
    """
    known: list[str] = []
    files = sorted((config_folder() / 'unnorm').glob('*.yaml'))
    for path in sorted(files, key=lambda path: path.stem != unnorm_key):
        keys, content = _dataset_file(path)
        if unnorm_key in keys:
            with naming(path):
                content['image'] = ImagePreparation.of(content['image'])
                return DatasetConfig(unnorm_key=unnorm_key, **content)
        known += keys
    raise SpecVLAError(
        f'no configuration for the data set {unnorm_key!r}, there are {sorted(known)}; '
        f'add {unnorm_key}.yaml to {config_folder() / "unnorm"}'
    )


def dataset_names() -> list[str]:
    """Names of the data sets there are configurations of."""
    files = sorted((config_folder() / 'unnorm').glob('*.yaml'))
    return [key for path in files for key in _dataset_file(path)[0]]


def check_key(keys: Collection[str], wanted: str | None) -> str:
    """
    Return the statistics' key to use where no suite says which.

    :raises ValueError: the checkpoint has no such key, or several of which none is named
    """
    if wanted is None and len(keys) == 1:
        wanted, = keys
    if wanted is None or wanted not in keys:
        said = 'one has to be chosen' if wanted is None else f'{wanted} is none of them'
        raise SpecVLAError(f'--unnorm-key: the checkpoint has the statistics '
                           f'{", ".join(sorted(keys)) or "of nothing"}, and {said}')
    load_dataset(wanted)
    return wanted


def _dataset_file(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Names of the data sets a file is for, and its settings."""
    content = read_yaml(path)
    names = {setting.name for setting in fields(DatasetConfig)} - {'unnorm_key'}
    check_keys(path, content, required=names, optional={'keys'})
    listed = content.pop('keys', [])
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        raise SpecVLAError(f'{path}: keys is {shown(listed)}, must be a list of names')
    return [path.stem, *listed], content

"""The arguments that name recordings, of every command that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from specvla_ros.recordings.episode import Recording, Selection
from specvla_ros.recordings.find import open_recordings

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class SourceArgs:
    """Recordings, and what of them is wanted; see `Selection`."""

    source: Annotated[tuple[Path, ...], tyro.conf.Positional, Help(
        help='recordings: rosbag2 folders, LeRobot data sets, HDF5 demonstrations of LIBERO, '
             'folders of `specvla collect` or of pictures')]
    image_topic: Annotated[str, Help(
        help='camera in bags; default: /image, or the only one there is')] = ''
    instruction_topic: Annotated[str, Help(help='in bags: what the robot was told')
                                 ] = '/instruction'
    camera: Annotated[str, Help(
        help='camera in data sets, as observation.images.front or agentview_rgb; default: the '
             'only one there is')] = ''
    instruction: Annotated[str, Help(help='what the robot was told, instead of what was recorded')
                           ] = ''
    mirrored: Annotated[bool, Help(
        help="the frames have left and right swapped, as in data made ready for OpenVLA's "
             'training: they are turned back')] = False

    def recordings(self) -> list[Recording]:
        """Open them; raise SpecVLAError for what can't be used."""
        return open_recordings(self.source, Selection(
            self.camera, self.image_topic, self.instruction_topic, self.instruction,
            self.mirrored))

"""
The state that an interrupted training goes on from, and the curve it has drawn so far.

Both lie in a folder `….training` beside the network: `state.pt`, replaced in one go, and
`curve.jsonl`, one object a measurement.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

from specvla_ros.errors import one_line, shown, SpecVLAError
from specvla_ros.files import alone_in, whole_file, writing

LAYOUT = 2  # counts changes of what stands in `state.pt`


@dataclass(frozen=True, slots=True)
class SavedState:
    """
    What a resumed training needs: plain numbers, texts, lists and tensors only.

    settings: those that a resumed training must share; optimizer, sampler: their `state_dict`;
    elapsed: seconds of training; samples: frames trained on; recipe: what the network's recipe
    adds.
    """

    settings: dict[str, Any]
    optimizer: dict[str, Any]
    sampler: dict[str, int]
    elapsed: float
    samples: int
    recipe: dict[str, Any]


def state_folder(network: Path) -> Path:
    """Return the folder beside a network's where its training keeps its state."""
    return network.with_name(network.name + '.training')


class StateFolder:
    """
    The folder `….training` of one training.

    option: the command's option for the network's folder, named in refusals.
    """

    def __init__(self, path: Path, option: str) -> None:
        self.path, self.option = path, option

    @property
    def state(self) -> Path:
        """The file of the state."""
        return self.path / 'state.pt'

    def held(self, leads: bool = True) -> AbstractContextManager[None]:
        """
        Keep other trainings out, from before the state is read until nothing more is written.

        leads: of the processes that train together, one does this for all.

        :raises SpecVLAError: another process trains into it, or it can't be made
        """
        return alone_in(self.path, self.option) if leads else nullcontext()

    def load(
        self, resume: bool, device: str, needs: Collection[str] = ()
    ) -> SavedState | None:
        """
        Read the state to go on from; None where a training begins.

        needs: what the recipe must find in its part.

        :raises SpecVLAError: there is a state and it isn't to be resumed, there is none to
            resume, or it is damaged or of another layout
        """
        if not resume:
            if self.state.exists():
                raise SpecVLAError(
                    f'{self.path} holds a training: add --resume to go on with it, '
                    f'choose another {self.option}, or delete that folder')
            return None
        if not self.state.exists():
            raise SpecVLAError(
                f'{self.state} does not exist: nothing to resume, leave out --resume')
        return self._read(device, needs)

    def save(self, state: SavedState) -> None:
        """Replace the state; raise SpecVLAError if the disk is full or not writable."""
        import torch

        content = {field.name: getattr(state, field.name) for field in fields(state)}
        with whole_file(self.state) as path:
            torch.save({'layout': LAYOUT} | content, path)

    def add_point(self, point: Mapping[str, Any]) -> None:
        """Add a measurement to the curve."""
        path = self.path / 'curve.jsonl'
        with writing(path):
            self.path.mkdir(parents=True, exist_ok=True)
            with path.open('a', encoding='utf-8') as file:
                file.write(json.dumps(point) + '\n')

    def check_same(self, now: Mapping[str, Any], saved: SavedState) -> None:
        """Raise SpecVLAError where a training goes on with other settings than it began with."""
        for name, value in now.items():
            if name not in saved.settings or saved.settings[name] != value:
                raise SpecVLAError(
                    f'--resume with {name} {value!r}, but the training in {self.path} began with '
                    f'{saved.settings.get(name)!r}: use that, or another {self.option}')

    def _read(self, device: str, needs: Collection[str]) -> SavedState:
        import torch

        again = f'delete {self.path} and begin again'
        try:
            # Only plain values and tensors: a file from elsewhere can run no code.
            content = torch.load(self.state, weights_only=True, map_location=device,
                                 mmap=device == 'cpu')
        except Exception as error:  # the loader may raise anything at all
            if isinstance(error, UnpicklingError) and is_zipfile(self.state):
                content = {}  # whole, but of objects that this layout has not
            else:
                reason = one_line(error, 200)
                raise SpecVLAError(f"{self.state} can't be read ({reason}): {again}") from error
        layout = content.get('layout') if isinstance(content, dict) else None
        if layout != LAYOUT:
            raise SpecVLAError(
                f'{self.state} has layout {shown(layout)}, must be {LAYOUT}: another version of '
                f'specvla wrote it; resume with that version, or {again}')
        kinds = dict(settings=dict, optimizer=dict, sampler=dict, elapsed=float, samples=int,
                     recipe=dict)
        for name, kind in kinds.items():
            if not isinstance(content.get(name), kind):
                raise SpecVLAError(f'{self.state}: {name} is {shown(content.get(name))}, must be '
                                   f'of type {kind.__name__}: {again}')
        if missing := sorted(set(needs) - set(content['recipe'])):
            raise SpecVLAError(f'{self.state} lacks {missing}: {again}')
        return SavedState(**{name: content[name] for name in kinds})

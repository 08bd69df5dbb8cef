"""
Collected episodes as arrays to draw training frames from.

The network's own image transform is run once a frame and kept as uint8 pixels in a folder beside
the data (`pixels_<settings>`, one .npy an episode, opened as a memory map). Collection may go on
meanwhile: `refresh` picks up what is new. Format of the episodes: see `collect.py`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile
import zlib

import numpy as np
from numpy.typing import NDArray
import torch

from specvla_ros.data_sets import ImagePreparation
from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.files import whole_file
from specvla_ros.openvla.action_tokenizer import ActionStatistics
from specvla_ros.openvla.image_transform import ImageTransform
from specvla_ros.recordings.collected import EpisodeFile, READING

_PIXELS_VERSION = 1  # counts changes of the image transform
# LIBERO's, for a target that is trained with random shifts.
AUGMENTED = ImagePreparation(jpeg=True, crop_area=0.9)


@dataclass(frozen=True, slots=True)
class Others:
    """Labels of still frames for K other tasks that can be done in their scene."""

    instructions: tuple[str, ...]
    action: NDArray[np.float32]  # [T, K, D]
    state: NDArray[np.float32]  # [T, K, S]


NO_OTHERS = Others((), np.zeros(0, np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Episode:
    """One collected episode; `name` is `task<id>/seed<seed>`."""

    name: str
    instruction: str
    action: NDArray[np.float32]  # [T, D], data-set units
    state: NDArray[np.float32]  # [T, S], privileged
    pixels: NDArray[np.uint8]  # [T, size, size, 3], a memory map
    following: NDArray[np.float32] | None = None  # [T, H, D], the action and the next ones
    others: Others = NO_OTHERS

    def __len__(self) -> int:
        return len(self.action)

    @property
    def labels(self) -> NDArray[np.float32]:
        """Steps that each frame is labelled with, [T, H, D]."""
        return self.action[:, None] if self.following is None else self.following


class Dataset:
    """
    The episodes of one suite under `<data>/<suite>/task<id>/seed<seed>.npz`.

    size: side of the network's input in pixels; mirror: flip frames left-right before the
    network sees them (`mirror_image` of the data set's configuration); tasks: empty = all; image:
    how frames are prepared (`image` of the data set's configuration); chunk: steps of a label, H.
    Above 1 a frame counts only if the H steps from it on were executed, all of the expert's.
    stills: take in the still frames of an episode (`stills.py`), of a failed one too, as another
    one of its name; they follow no other frame, so they teach a target and no drafter.
    failed_steps: of a failed episode, take the frames before this step. The expert's advice is
    good there as well; at the end of such an episode it led nowhere.

    :raises SpecVLAError: frames without a JPEG round trip are asked for: they are stored as JPEG
    """

    def __init__(
        self, data: Path, suite: str, size: int, mirror: bool = True, tasks: tuple[int, ...] = (),
        image: ImagePreparation = AUGMENTED, chunk: int = 1, stills: bool = False,
        failed_steps: int = 0,
    ) -> None:
        if not image.jpeg:
            raise SpecVLAError(
                'image jpeg is false in the configuration of the data set, must be true to train: '
                'collected frames are stored as JPEG')
        self.folder = data / suite
        self.size, self.mirror, self.tasks, self.image = size, mirror, tasks, image
        self.chunk, self.stills, self.failed_steps = chunk, stills, failed_steps
        self.episodes: list[Episode] = []
        self._seen: set[str] = set()
        crop = '' if image == AUGMENTED else f'_area{image.crop_area!r}'
        setting = f'{size}{"m" if mirror else ""}{crop}_v{_PIXELS_VERSION}'
        self._cache = self.folder / f'pixels_{setting}'

    @property
    def n_frames(self) -> int:
        """Frames of all episodes."""
        return sum(len(episode) for episode in self.episodes)

    def refresh(
        self, workers: int = 1, only: list[str] | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """
        Take in episodes written since the last call; returns how many.

        only: names to take, in this order, and no others (a resumed run sees what the
        interrupted one saw).

        :raises SpecVLAError: an episode can't be read, or one of `only` is gone
        """
        names = only if only is not None else self._names()
        new = [name for name in dict.fromkeys(names) if name not in self._seen]
        with ThreadPoolExecutor(workers) as pool:
            for done, episodes in enumerate(pool.map(self._load, new), 1):
                self.episodes += episodes
                on_progress(done, len(new))
        self._seen.update(new)
        return len(new)

    def _names(self) -> list[str]:
        folders = [self.folder / f'task{task}' for task in self.tasks]
        if not self.tasks:
            folders = list(self.folder.glob('task*'))
        paths = [path for folder in folders for path in folder.glob('seed*.npz')]
        return sorted(f'{path.parent.name}/{path.stem}' for path in paths)

    def _load(self, name: str) -> list[Episode]:
        path = self.folder / f'{name}.npz'
        try:
            with EpisodeFile(path) as file:
                solved, instruction = bool(file['success']), file.instruction()
                stills = self._stills(name, instruction, file) if self.stills else []
                if not solved and not self.failed_steps:
                    return stills  # labelled one by one: the end says nothing of them
                action, state = file.numbers('action'), file.numbers('state')
                jpegs = file['jpeg']
                steps = None if solved else file.frame()
                played = Played.of(file) if 'executed' in file else None
            if played is not None and not jpegs:  # of a short episode with many bursts
                return []
            _check(action, state, jpegs)
            if steps is not None and len(steps) != len(jpegs):
                raise ValueError(f'{len(jpegs)} frames of {len(steps)} steps')
            pixels = self._pixels(name, jpegs)
        except FileNotFoundError:
            raise SpecVLAError(f'{path} is gone: the data the training began with must stay') \
                from None
        except SpecVLAError:  # the disk is full: the episode is as good as before
            raise
        except (OSError, ValueError, KeyError, EOFError, UnpicklingError, BadZipFile, TypeError,
                AttributeError, ImportError, IndexError, zlib.error) as error:
            raise SpecVLAError(f'{path} is no episode ({one_line(error)}): delete it '
                               'and collect again') from error
        # The steps rise, so these are the first frames: slices, and the memory map needs no copy.
        taken = len(jpegs) if steps is None else int((steps < self.failed_steps).sum())
        action, state, pixels = action[:taken], state[:taken], pixels[:taken]
        following = None
        if self.chunk > 1:
            kept, following = self._chunks(path, played, taken)
            if len(kept) < taken:
                action, state, pixels = action[kept], state[kept], pixels[kept]
        if not len(action):
            return stills
        return [Episode(name, instruction, action, state, pixels, following), *stills]

    def _chunks(
        self, path: Path, played: 'Played | None', taken: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return which of the first frames have a whole chunk, [N], and the chunks [N, H, D]."""
        if played is None:
            raise SpecVLAError(
                f'{path} was collected without --chunk: nothing says which actions were executed '
                f'after its frames; collect with --chunk {self.chunk} to a folder of its own, or '
                'train with --chunk 1')
        kept, following = played.chunks(self.chunk)
        return kept[kept < taken], following[kept < taken]

    def _stills(self, name: str, instruction: str, file: EpisodeFile) -> list[Episode]:
        """Return the still frames of a file as an episode, if it has some."""
        if self.chunk > 1 or 'still_jpeg' not in file:  # nothing is executed after them
            return []
        action, state = file.numbers('still_action'), file.numbers('still_state')
        jpegs = file['still_jpeg']
        _check(action, state, jpegs)
        # `--tasks` leaves the other tasks out: their labels on these frames as well.
        others = _others(file, action, state) \
            if 'other_instruction' in file and not self.tasks else NO_OTHERS
        return [Episode(name, instruction, action, state, self._pixels(f'{name}-stills', jpegs),
                        others=others)]

    def _pixels(self, name: str, jpegs: list[bytes]) -> NDArray[np.uint8]:
        """Memory map of the transformed frames, made on first use."""
        path = self._cache / f'{name}.npy'
        if not path.exists():
            torch.set_num_threads(1)  # of this worker thread
            transform = ImageTransform(self.size, crop_area=self.image.crop_area)
            pixels = np.stack([transform.pixels_from_jpeg(jpeg).numpy() for jpeg in jpegs])
            # Resize and crop are symmetric, so flipping after them is flipping before.
            pixels = pixels[:, :, ::-1] if self.mirror else pixels
            with whole_file(path) as temporary, temporary.open('wb') as file:
                np.save(file, np.ascontiguousarray(pixels))
        with READING:
            return np.load(path, mmap_mode='r')


@dataclass(frozen=True, slots=True)
class Played:
    """
    What was executed in an episode that teaches chunks, see `chunk_play.py`.

    executed: float32 [S, D], data-set units; clean: bool [S], whether it was the expert's action
    unchanged; frame: int [T], the step of each frame.
    """

    executed: NDArray[np.float32]
    clean: NDArray[np.bool_]
    frame: NDArray[np.int64]

    @classmethod
    def of(cls, file: EpisodeFile) -> 'Played':
        """Read an episode's file; raise ValueError or KeyError if its parts don't belong."""
        executed, clean = file.numbers('executed'), np.asarray(file['clean'], bool)
        frame = file.frame()
        steps = len(executed)
        if executed.ndim != 2 or clean.shape != (steps,) or not np.isfinite(executed).all():
            raise ValueError(f'{steps} steps executed, {clean.shape} said to be clean or not: '
                             'must be as many of each, of finite numbers')
        if len(frame) and not (0 <= frame.min() and frame.max() < steps):
            raise ValueError(f'frames of steps {frame.min()} to {frame.max()}, must be 0 to '
                             f'{steps - 1}')
        return cls(executed, clean, frame)

    def chunks(self, chunk: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the frames that count, [N] indices, and what they are labelled with [N, H, D]."""
        kept = np.flatnonzero([counts(self.clean, step, chunk) for step in self.frame])
        steps = self.frame[kept, None] + np.arange(chunk)
        return kept, self.executed[steps]


def counts(clean: NDArray[np.bool_], step: int, chunk: int) -> bool:
    """Whether the `chunk` steps from `step` on were all executed, and all the expert's."""
    return step + chunk <= len(clean) and bool(clean[step:step + chunk].all())


def _check(action: NDArray[np.float32], state: NDArray[np.float32], jpegs: list) -> None:
    """Raise ValueError unless an episode's parts are of one length and of numbers."""
    if not len(action) == len(state) == len(jpegs) or action.ndim != 2 or not action.size:
        raise ValueError(f'{len(jpegs)} frames, actions {action.shape}, states {state.shape}: '
                         'must be as many of each, at least one')
    if not np.isfinite(action).all() or not np.isfinite(state).all():
        raise ValueError('an action or a state is not finite')
    if not all(isinstance(jpeg, bytes) for jpeg in jpegs):
        raise ValueError('a frame is no bytes of a JPEG file')


def _others(file: EpisodeFile, action: NDArray, state: NDArray) -> Others:
    """Read the labels for other tasks; raise ValueError unless they fit the frames' own."""
    said = file['other_instruction']
    if said.ndim != 1 or said.dtype.kind != 'U' or not all(text.strip() for text in said):
        raise ValueError(f'other_instruction is {said.dtype} {list(said.shape)}, must be a list '
                         'of texts')
    others = file.numbers('other_action'), file.numbers('other_state')
    for numbers, own in zip(others, (action, state), strict=True):
        wanted = (len(own), len(said), *own.shape[1:])
        if numbers.shape != wanted or not np.isfinite(numbers).all():
            raise ValueError(f'what {len(said)} other instructions ask for is {numbers.shape}, '
                             f'must be {wanted} finite numbers')
    return Others(tuple(map(str, said)), *others)


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of some episodes under one running index."""

    episodes: tuple[Episode, ...]
    starts: NDArray[np.int64]  # running index of each episode's first frame

    @classmethod
    def of(cls, episodes: list[Episode]) -> 'Frames':
        """Number the frames of episodes, in order."""
        lengths = [len(episode) for episode in episodes]
        return cls(tuple(episodes), np.concatenate(([0], np.cumsum(lengths))).astype(np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def n_episodes(self) -> int:
        """Episodes they are of."""
        return len(self.episodes)

    def locate(self, index: int) -> tuple[Episode, int]:
        """Episode and frame within it of a running index."""
        number = int(np.searchsorted(self.starts, index, side='right')) - 1
        return self.episodes[number], int(index - self.starts[number])


def action_statistics(
    episodes: list[Episode], gripper: bool = True, minimum_span: float = 0.02
) -> ActionStatistics:
    """
    1st and 99th percentile of the actions; the last dimension is not scaled if it's a gripper.

    A dimension that hardly ever moves (say a rotation that is exactly zero in more than 98 % of
    the frames) would get an empty range, and could then only ever say zero: its range is that of
    its extremes, at least `minimum_span` wide around them, in data-set units.
    """
    action = np.concatenate([episode.action for episode in episodes]).astype(np.float64)
    q01, q99 = np.quantile(action, 0.01, axis=0), np.quantile(action, 0.99, axis=0)
    still = q99 - q01 < minimum_span
    q01[still], q99[still] = action.min(axis=0)[still], action.max(axis=0)[still]
    centre, half = (q01 + q99) / 2, np.maximum(q99 - q01, minimum_span) / 2
    q01[still], q99[still] = (centre - half)[still], (centre + half)[still]
    mask = np.ones(action.shape[1], dtype=bool)
    mask[-1] = not gripper
    return ActionStatistics(q01, q99, mask)

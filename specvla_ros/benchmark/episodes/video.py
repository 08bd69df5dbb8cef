"""
demo.mp4: the same initial state under each decoder, side by side.

Every column runs on its own clock: the time its decoder needed for each action, without the
simulator. So a faster decoder finishes earlier. The first action is shown in slow motion,
pass by pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
import subprocess
import tempfile

import numpy as np
from PIL import Image

from specvla_ros.benchmark.episodes.overlay import (
    canvas_size,
    draw_canvas,
    draw_column,
    EpisodeFilm,
    Moment,
    tokens_per_pass,
)
from specvla_ros.errors import SpecVLAError
from specvla_ros.files import whole_file

FPS = 20
SLOW_MOTION_S = 5.0  # for the slowest decoder's first action
HOLD_S = 2.0  # the last picture of a scene
# Decoders faster than the video's frame rate are slowed down, so that every action is seen.
MIN_ACTION_S = 1 / FPS


@dataclass(frozen=True, slots=True)
class Scene:
    """One initial state under several decoders, which are the columns from left to right."""

    instruction: str
    suite: str
    task: int
    state: int
    films: tuple[EpisodeFilm, ...]


def slowdown(films: Sequence[EpisodeFilm]) -> float:
    """Return how many times slower than life the video runs; 1 unless actions are too fast."""
    fastest = min(float(film.times_ms.mean()) for film in films) / 1000
    return max(1.0, MIN_ACTION_S / fastest)


def moment_at(film: EpisodeFilm, clock_s: float, pass_by_pass: bool) -> Moment:
    """
    Return the moment of a film at a time of its own clock.

    :param clock_s: seconds of decoding since the start of the episode
    :param pass_by_pass: show only the passes that are done by then
    """
    ends = np.cumsum(film.times_ms) / 1000
    index = int(np.searchsorted(ends, clock_s, side='right'))
    last = len(film.actions) - 1
    if index > last:
        return Moment(last, len(tokens_per_pass(film.actions[last])), ended=True)
    passes = len(tokens_per_pass(film.actions[index]))
    if pass_by_pass:
        start = ends[index - 1] if index else 0.0
        passes = _passes_done(film, index, 1000 * (clock_s - start))
    return Moment(index, passes, ended=False)


def _passes_done(film: EpisodeFilm, index: int, ms: float) -> int:
    """
    The prefill ends when its stages do; the passes after it share the rest evenly.

    What the target never saw comes with the last of them, or, without any, with the stages before.
    """
    action = film.actions[index]
    first = sum(action.stage_ms.get(name, 0.0) for name in ('preprocess', 'vision', 'prefill'))
    passes = len(action.acceptance_lengths)
    if ms < first:
        return 0
    each = (action.stage_ms['total'] - first) / max(passes, 1)
    later = min(passes, int((ms - first) / max(each, 1e-9)))
    return 1 + later if later < passes else len(tokens_per_pass(action))


@dataclass(frozen=True, slots=True)
class _Tick:
    """One picture of a scene: the clock of all its columns and how fast it runs."""

    clock_s: float
    slow_motion: bool


def _ticks(films: Sequence[EpisodeFilm]) -> list[_Tick]:
    """Return the clock of every picture: slow motion, then the episodes, then the last one."""
    first = max(float(film.times_ms[0]) for film in films) / 1000
    end = max(float(film.times_ms.sum()) for film in films) / 1000
    slow = np.linspace(0, first, int(SLOW_MOTION_S * FPS), endpoint=False)
    running = np.arange(first, end, 1 / FPS / slowdown(films))
    return [*(_Tick(float(clock), True) for clock in slow),
            *(_Tick(float(clock), False) for clock in running),
            *[_Tick(end, False)] * int(HOLD_S * FPS)]


def count_pictures(scene: Scene) -> int:
    """Return how many pictures a scene has."""
    return len(_ticks(scene.films))


def scene_pictures(scene: Scene) -> Iterator[Image.Image]:
    """Yield the scene's pictures, FPS a second."""
    films = scene.films
    ticks = _ticks(films)
    subtitle = f'{scene.suite}, task {scene.task}, initial state {scene.state}'
    factor = slowdown(films)
    real = 'real time' if factor == 1 else f'slowed {factor:.1f}×'
    first_slowed = SLOW_MOTION_S / max(float(film.times_ms[0]) / 1000 for film in films)
    drawn: dict[int, tuple[Moment, Image.Image]] = {}  # the column as it was last
    for tick in ticks:
        for number, film in enumerate(films):
            moment = moment_at(film, tick.clock_s, tick.slow_motion)
            if number not in drawn or drawn[number][0] != moment:
                drawn[number] = moment, draw_column(film, moment)
        clock = f'{1000 * tick.clock_s:.0f} ms, slowed {first_slowed:.0f}×' \
            if tick.slow_motion else f'{tick.clock_s:.1f} s, {real}'
        columns = [picture for _, picture in drawn.values()]
        yield draw_canvas(columns, scene.instruction, subtitle, clock)


def write_video(path: Path, scenes: Sequence[Scene],
                on_picture: Callable[[], None] = lambda: None) -> None:
    """
    Draw and encode all scenes as H.264.

    :param on_picture: called after each picture
    :raises SpecVLAError: ffmpeg failed or the disk is full; no file is left under `path`
    """
    size = canvas_size(max(len(scene.films) for scene in scenes))
    with whole_file(path) as temporary:
        _encode(temporary, size, _pictures(scenes, on_picture), path)


def _pictures(scenes: Sequence[Scene], on_picture: Callable[[], None]) -> Iterator[Image.Image]:
    for scene in scenes:
        for picture in scene_pictures(scene):
            yield picture
            on_picture()


def _encode(temporary: Path, size: tuple[int, int], pictures: Iterator[Image.Image],
            path: Path) -> None:
    command = [
        ffmpeg(), '-y', '-loglevel', 'error', '-f', 'rawvideo', '-pix_fmt', 'rgb24',
        '-s', f'{size[0]}x{size[1]}', '-r', str(FPS), '-i', '-', '-an', '-c:v', 'libx264',
        '-preset', 'veryfast', '-crf', '23', '-pix_fmt', 'yuv420p', '-movflags', '+faststart',
        '-f', 'mp4', str(temporary)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None  # a pipe
        broken = False
        try:
            for picture in pictures:
                process.stdin.write(_padded(picture, size).tobytes())
            process.stdin.close()
        except BrokenPipeError:
            broken = True  # ffmpeg gave up; it says why
        except BaseException:
            process.kill()
            process.wait()
            raise
        code = process.wait()
        errors.seek(0)
        lines = errors.read().decode(errors='replace').strip().splitlines()
    # A full disk can show only in what ffmpeg says: some versions still exit with 0.
    if code or broken or lines:
        reason = next((line for line in lines if 'No space' in line), lines[-1] if lines
                      else f'exit code {code}')
        raise SpecVLAError(f'cannot write {path}: ffmpeg says: {reason}')


def _padded(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    canvas = Image.new('RGB', size)
    canvas.paste(picture, ((size[0] - picture.width) // 2, 0))
    return canvas


def ffmpeg() -> str:
    """
    Return the path of ffmpeg: the user's, or the one that imageio-ffmpeg brings.

    :raises SpecVLAError: there is none
    """
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise SpecVLAError('no ffmpeg found; install imageio-ffmpeg in this Python environment, '
                           'or set IMAGEIO_FFMPEG_EXE to one') from error

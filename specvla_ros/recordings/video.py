"""Frames of a video file by their times, with PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.recordings.episode import missing_module


def frames_at(
    path: Path, times: NDArray[np.float64], tolerance: float
) -> Iterator[NDArray[np.uint8]]:
    """
    Decode the frames shown at these times, uint8 [H, W, 3] RGB.

    :param times: s from the file's beginning, rising
    :param tolerance: s that a frame's own time may be off
    :raises SpecVLAError: the file is damaged, or has no frame at one of the times
    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SpecVLAError(f'{path} holds no video')
            stream = container.streams.video[0]
            stream.thread_type = 'AUTO'
            if times[0] > tolerance:  # the keyframe before it
                container.seek(int(times[0] / stream.time_base), stream=stream)
            yield from _matched(path, container.decode(stream), times, tolerance)
    except SpecVLAError:
        raise
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise SpecVLAError(f"{path} can't be decoded ({one_line(error)}): it is "
                           'damaged or cut off') from error


def _matched(
    path: Path, decoded: Iterator, times: NDArray[np.float64], tolerance: float
) -> Iterator[NDArray[np.uint8]]:
    """Yield the decoded frame of each time; frames before the first one are passed over."""
    frame, last = None, None
    for wanted in times:
        while frame is None or frame.time is None or frame.time < wanted - tolerance:
            frame = next(decoded, None)
            if frame is None:
                end = 'has no frame at all' if last is None else f'ends at {last:.3f} s'
                raise SpecVLAError(f'{path} {end}, the episode needs a frame at {wanted:.3f} s: '
                                   'it is cut off')
            last = frame.time
        if frame.time > wanted + tolerance:
            raise SpecVLAError(f'{path} has no frame at {wanted:.3f} s, the next one is of '
                               f'{frame.time:.3f} s: its times are not those of the episodes')
        yield frame.to_ndarray(format='rgb24')


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise missing_module('av', 'videos') from error
    return av

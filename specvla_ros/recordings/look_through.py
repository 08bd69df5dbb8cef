"""Every frame of recordings once, so that what can't be read is known before hours of work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.episode import Recording, size_of


def look_through(
    recordings: Sequence[Recording], on_frame: Callable[[], None] = lambda: None
) -> None:
    """
    Decode every frame of the recordings that were not decoded when they were opened.

    :param on_frame: is called after each
    :raises SpecVLAError: one can't be read, or the camera of a recording changes its size
    """
    for recording in recordings:
        if recording.is_decoded:
            continue
        shape: tuple[int, ...] = ()
        for episode in recording.episodes:
            for image in recording.images(episode):
                shape = shape or image.shape
                if image.shape != shape:
                    raise SpecVLAError(
                        f'{recording.path}, {episode.name}: the frames are '
                        f'{size_of(image.shape)}, those of {recording.episodes[0].name} '
                        f'{size_of(shape)}: a camera keeps its size; leave one of them out')
                on_frame()


def unread(recordings: Sequence[Recording]) -> int:
    """Return how many frames `look_through` will decode."""
    return sum(recording.frames for recording in recordings if not recording.is_decoded)

"""Read frames, instructions and recorded actions from a bag, as the policy saw them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specvla_ros.bags.reader import Bag, Message
from specvla_ros.camera import compressed_to_rgb, to_nanoseconds, to_rgb
from specvla_ros.errors import SpecVLAError

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
STRING = 'std_msgs/msg/String'
ACTION, REPORT = 'specvla_ros/msg/ActionDelta', 'specvla_ros/msg/DecodeReport'
DEFAULT_CAMERA = '/image'
EPISODE = 'specvla_ros/msg/EpisodeStatus'
_UNREADABLE = -1  # no episode has this number
_UNVERIFIED = 2  # of `DecodeReport.token_origins`


@dataclass(frozen=True, slots=True)
class Frame:
    """
    A camera frame and the instruction in force when it came.

    number: counts the frames from 0. stamp: of the camera, received: by the recorder, ns.
    image: uint8 [H, W, 3] RGB. segment: counts instructions and episodes from 0: where it
    changes, a policy has to forget. position: which of the topic's images it is, from 0, those
    that can't be used included.
    """

    number: int
    stamp: int
    received: int
    image: np.ndarray
    instruction: str
    segment: int
    position: int = 0


@dataclass(slots=True)
class Skipped:
    """
    Frames that can't be replayed, and why.

    uninstructed: under no instruction that is known. repeated: sent again under the same stamp.
    unreadable: damaged or in no known encoding; reason: of the first of them. words: instructions
    and episodes that can't be read; words_reason: of the first of them.
    """

    uninstructed: int = 0
    repeated: int = 0
    unreadable: int = 0
    reason: str = ''
    words: int = 0
    words_reason: str = ''


@dataclass(slots=True)
class FrameReader:
    """
    The frames of a bag, in order.

    image_topic, instruction_topic: names as recorded. instruction: in place of the recorded ones.
    only: positions of the images to decode (see `Frame`), rising; None = all. since: ns; with an
    indexed bag, begin with what came then, its first image being the first of `only`.

    :raises SpecVLAError: the bag lacks a topic, or it is of another type
    """

    bag: Bag
    image_topic: str
    instruction_topic: str
    instruction: str = ''
    skipped: Skipped = field(default_factory=Skipped)
    only: Sequence[int] | None = None
    since: int = 0

    def __post_init__(self) -> None:
        _check_topic(self.bag, self.image_topic, '--image-topic', IMAGE, COMPRESSED)
        if not self.instruction:
            _check_topic(self.bag, self.instruction_topic, '--instruction-topic', STRING)

    @property
    def n_images(self) -> int:
        """How many images there are, readable or not."""
        return self.bag.counts[self.image_topic]

    def __iter__(self) -> Iterator[Frame]:
        """
        Read from the beginning; `skipped` counts anew.

        An instruction that can't be read leaves it unknown what the robot was told: the frames
        under it are skipped. An episode message that can't be read counts as a new episode.
        """
        self.skipped = Skipped()
        episodes = self.bag.of_kind(EPISODE)
        instruction, episode = self.instruction, None
        begun: tuple[str, int | None] | None = None
        number, segment, last_stamp, position = 0, -1, 0, -1
        only = self.only
        wanted, last = (None, -1) if only is None else (set(only), only[-1])
        if only is not None and self.since and self.bag.is_indexed:
            position = only[0] - 1
        topics = {self.image_topic, self.instruction_topic, *episodes}
        for message in self.bag.messages(topics, self.since):
            if message.topic == self.image_topic:
                position += 1
                if wanted is not None and position > last:
                    return
                if wanted is not None and position not in wanted:
                    continue
                content = self._image_of(message, last_stamp)
                if content is None:
                    continue
                last_stamp, image = content
                if not instruction:
                    self.skipped.uninstructed += 1
                    continue
                if begun != (instruction, episode):
                    begun, segment = (instruction, episode), segment + 1
                yield Frame(number, last_stamp, message.received, image, instruction, segment,
                            position)
                number += 1
            elif message.topic in episodes:
                content = self._words_of(message, EPISODE)
                episode = _UNREADABLE if content is None else content.episode
            elif not self.instruction:
                content = self._words_of(message, STRING)
                instruction = '' if content is None else content.data.strip()

    def why_none(self) -> str:
        """Return why there was no frame at all, after they were read."""
        skipped = self.skipped
        if skipped.uninstructed and not (skipped.reason or skipped.words_reason):
            return f'all {skipped.uninstructed} came under no instruction; give --instruction'
        return skipped.reason or skipped.words_reason or self.bag.missing

    def remarks(self) -> list[str]:
        """Return what was left out and why, a line each, after the frames were read."""
        skipped = self.skipped
        lines = [f'{count} of {self.n_images} images {what}' for count, what in (
            (skipped.uninstructed, 'came under no instruction'),
            (skipped.repeated, 'were sent again under the same stamp'),
            (skipped.unreadable, f'could not be read: {skipped.reason}')) if count]
        if skipped.words:
            lines.append(f'{skipped.words} instructions or episodes could not be read: '
                         f'{skipped.words_reason}')
        return lines

    def _image_of(self, message: Message, last_stamp: int) -> tuple[int, np.ndarray] | None:
        """Return stamp and pixels; None, counted, for what the policy would not have acted on."""
        try:
            content = self._read(message, IMAGE, COMPRESSED)
            stamp = to_nanoseconds(content.header.stamp)
            if stamp and stamp == last_stamp:
                self.skipped.repeated += 1
                return None
            return stamp, (to_rgb if message.kind == IMAGE else compressed_to_rgb)(content)
        except SpecVLAError as error:
            self.skipped.unreadable += 1
            self.skipped.reason = self.skipped.reason or str(error)
            return None

    def _words_of(self, message: Message, kind: str) -> Any | None:
        """Return the content of an instruction or an episode; None, counted, if unreadable."""
        try:
            return self._read(message, kind)
        except SpecVLAError as error:
            self.skipped.words += 1
            self.skipped.words_reason = self.skipped.words_reason or str(error)
            return None

    def _read(self, message: Message, *kinds: str) -> Any:
        if message.kind not in kinds:  # a topic may change its type within a bag
            raise SpecVLAError(f'{message.topic} holds a {message.kind}, must be '
                               f'{" or ".join(kinds)}')
        return self.bag.read(message)


@dataclass(frozen=True, slots=True)
class LiveAction:
    """
    The policy's action when the bag was recorded.

    tokens: of the control steps that were sent. decoder: '' if no report names it. steps: their
    numbers in the action, ascending. at_once: how many of them came in one message: in a
    simulation that waits, the next frame is so many control periods later. is_own: the report says
    that every token is the target's own choice: a strict rule, nothing forbidden or unverified.
    """

    tokens: tuple[int, ...]
    decoder: str
    steps: tuple[int, ...] = (0,)
    at_once: int = 1
    is_own: bool = False

    def said_again(self, tokens: Sequence[int]) -> bool | None:
        """Whether another action says the same for these steps; None = it lacks some of them."""
        size = len(self.tokens) // len(self.steps)
        if size * (self.steps[-1] + 1) > len(tokens):
            return None
        return self.tokens == tuple(
            token for step in self.steps for token in tokens[step * size:(step + 1) * size])


def live_actions(bag: Bag) -> dict[int, LiveAction]:
    """
    Return the recorded actions by the stamp (ns) of the image they answer.

    Control steps that were not sent, as the next action said them again, are in none of them.
    """
    steps: dict[int, dict[int, tuple[int, ...]]] = {}  # stamp: step: tokens
    at_once: dict[int, int] = {}
    decoders: dict[int, str] = {}
    exact: set[int] = set()
    for message in bag.messages(bag.of_kind(ACTION, REPORT)):
        if message.kind not in (ACTION, REPORT):
            continue
        try:
            content = bag.read(message)
        except SpecVLAError:
            continue  # a damaged one is none: it can't be compared
        stamp = to_nanoseconds(content.image_stamp)
        if message.kind == REPORT:
            decoders[stamp] = content.decoder
            if _is_exact(content):
                exact.add(stamp)
        elif len(content.token_ids):  # others tell the arm to stand still
            count = len(content.gripper)
            if not count or len(content.token_ids) % count:
                continue  # not ours: it can't be compared either
            of_stamp = steps.setdefault(stamp, {})
            first = getattr(content, 'first_step', 0)  # older bags have no such field
            ids = np.reshape(content.token_ids, (count, -1)).tolist()
            of_stamp |= {first + number: tuple(step) for number, step in enumerate(ids)}
            at_once[stamp] = max(count, at_once.get(stamp, 1))
    return {stamp: LiveAction(
        tuple(token for _, step in sorted(said.items()) for token in step),
        decoders.get(stamp, ''), tuple(sorted(said)), at_once[stamp], stamp in exact)
        for stamp, said in steps.items()}


def first_steps(bag: Bag) -> dict[int, np.ndarray]:
    """
    Return the first control step published for each image, by its stamp (ns): float32 [7].

    As it was published, inside the envelope: m, rotation vector in rad, gripper (1 = open).
    """
    found: dict[int, np.ndarray] = {}
    for message in bag.messages(bag.of_kind(ACTION)):
        if message.kind != ACTION:
            continue
        try:
            content = bag.read(message)
        except SpecVLAError:
            continue  # a damaged one is none
        stamp = to_nanoseconds(content.image_stamp)
        if stamp in found or not len(content.token_ids) or not min(
                len(content.translation), len(content.rotation), len(content.gripper)):
            continue  # without tokens it tells the arm to stand still
        moved, turned = content.translation[0], content.rotation[0]
        step = np.array([moved.x, moved.y, moved.z, turned.x, turned.y, turned.z,
                         content.gripper[0]], np.float32)
        if np.isfinite(step).all():
            found[stamp] = step
    return found


def _is_exact(report: Any) -> bool:
    """Whether a report says that each token is the target's own choice; an old one may not."""
    origins = getattr(report, 'token_origins', None)
    return report.rule == 'strict' and not getattr(report, 'forbidden', 1) \
        and origins is not None and _UNVERIFIED not in {int(origin) for origin in origins}


def only_camera(bag: Bag) -> str:
    """
    Return the topic to look through where none is named: /image, or the only camera.

    :raises SpecVLAError: there is none, or one has to be chosen
    """
    found = bag.of_kind(IMAGE, COMPRESSED)
    if DEFAULT_CAMERA in found or len(found) != 1:
        _check_topic(bag, DEFAULT_CAMERA, '--image-topic', IMAGE, COMPRESSED)
        return DEFAULT_CAMERA
    return found[0]


def _check_topic(bag: Bag, topic: str, option: str, *kinds: str) -> None:
    if bag.topics.get(topic) in kinds and bag.counts[topic]:
        return
    found = bag.topics.get(topic)
    problem = f'has no topic {topic}' if found is None else \
        f'has no message on {topic}' if found in kinds else f'has {topic} as {found}'
    fitting = ', '.join(f'{name} ({bag.counts[name]} messages)' for name in bag.of_kind(*kinds))
    raise SpecVLAError(f'{bag.path} {problem}; of type {" or ".join(kinds)} it has '
                       f'{fitting or "none"}; see {option}')

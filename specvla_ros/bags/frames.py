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


@dataclass(frozen=True, slots=True)
class Frame:
    """
    A camera frame and the instruction in force when it came.

    number: counts the frames from 0. stamp: of the camera, received: by the recorder, ns.
    image: uint8 [H, W, 3] RGB. segment: counts instructions and episodes from 0: where it
    changes, a policy has to forget.
    """

    number: int
    stamp: int
    received: int
    image: np.ndarray
    instruction: str
    segment: int


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

    :raises SpecVLAError: the bag lacks a topic, or it is of another type
    """

    bag: Bag
    image_topic: str
    instruction_topic: str
    instruction: str = ''
    skipped: Skipped = field(default_factory=Skipped)

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
        number, segment, last_stamp = 0, -1, 0
        for message in self.bag.messages({self.image_topic, self.instruction_topic, *episodes}):
            if message.topic == self.image_topic:
                content = self._image_of(message, last_stamp)
                if content is None:
                    continue
                last_stamp, image = content
                if not instruction:
                    self.skipped.uninstructed += 1
                    continue
                if begun != (instruction, episode):
                    begun, segment = (instruction, episode), segment + 1
                yield Frame(number, last_stamp, message.received, image, instruction, segment)
                number += 1
            elif message.topic in episodes:
                content = self._words_of(message, EPISODE)
                episode = _UNREADABLE if content is None else content.episode
            elif not self.instruction:
                content = self._words_of(message, STRING)
                instruction = '' if content is None else content.data.strip()

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
    simulation that waits, the next frame is so many control periods later.
    """

    tokens: tuple[int, ...]
    decoder: str
    steps: tuple[int, ...] = (0,)
    at_once: int = 1

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
        elif len(content.token_ids):  # others tell the arm to stand still
            of_stamp, count = steps.setdefault(stamp, {}), len(content.gripper)
            first = getattr(content, 'first_step', 0)  # older bags have no such field
            ids = np.reshape(content.token_ids, (count, -1)).tolist()
            of_stamp |= {first + number: tuple(step) for number, step in enumerate(ids)}
            at_once[stamp] = max(count, at_once.get(stamp, 1))
    return {stamp: LiveAction(
        tuple(token for _, step in sorted(said.items()) for token in step),
        decoders.get(stamp, ''), tuple(sorted(said)), at_once[stamp])
        for stamp, said in steps.items()}


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

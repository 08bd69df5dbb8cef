"""One adaptation: what the target says, what a drafter learns of it, and whether it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import shutil
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from specvla_ros.configuration import load_preset
from specvla_ros.devices import resolve_device
from specvla_ros.drafter_folders import all_weights
from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.files import json_text, whole_file, whole_folder
from specvla_ros.hashing import folder_sha256
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.policy import Policy
from specvla_ros.progress import say, terminal_bar
from specvla_ros.recordings.episode import Recording
from specvla_ros.training.adapting.arguments import AdaptArgs
from specvla_ros.training.adapting.card import card, made_of
from specvla_ros.training.adapting.lesson import begins_with, Lesson, lessons, Teaching
from specvla_ros.training.adapting.split import cut, Division
from specvla_ros.training.adapting.trial import Comparison, is_kept, play
from specvla_ros.training.adapting.words import spot_check, Thinned, Words
from specvla_ros.training.regenerate import RegenerateArgs
from specvla_ros.training.training_progress import TrainingProgress
from specvla_ros.typed_files import naming

REPORT = 'report.json'
WORK, WORDS, DRAFTERS = 'work', 'words', 'drafters'  # folders that it writes
_OTHERS = 1  # of the frames checked that may differ: two equal logits, on another machine
_RULES = ('strict', 'relaxed')
_PIECE = 128  # frames that a lane holds at once: of a 7B, 2 to 6 MB each
_EAGLE_PATHS = 4  # token paths a frame for EAGLE, as `specvla regenerate` has them


class Adaptation:
    """One adaptation, from recordings that were found to drafters that are kept or not."""

    def __init__(
        self, args: AdaptArgs, target: Path, present: Path, key: str,
        recordings: list[Recording], division: Division, console: Console,
    ) -> None:
        self.args, self.target, self.present, self.key = args, target, present, key
        self.recordings, self.division, self.console = recordings, division, console
        self.device = str(resolve_device(args.device))
        self.sha256 = folder_sha256(target)

    def run(self) -> None:
        """Label, teach, measure, and leave what is better."""
        try:
            self._run()
        finally:
            shutil.rmtree(self.args.out / WORK, ignore_errors=True)

    def _run(self) -> None:
        thinned, learned = self._label(), {}
        made = made_of(self.recordings, self.division, sum(map(len, thinned)), self._taken)
        teaching = self._teaching(made['learned_frames'])
        comparisons: dict[str, list[Comparison]] = {}
        for lesson in lessons(self._chunk, self.args.eagle):
            model = self._teach(lesson, teaching)
            comparisons[lesson.name] = self._compare(lesson, teaching, model)
            learned[lesson.name] = not self.division.too_little and is_kept(
                comparisons[lesson.name])
            del model
        self._leave(made, comparisons, [name for name, kept in learned.items() if kept])

    def _label(self) -> list[Thinned]:
        """Let the target say its actions to what is learned from."""
        args = self.args
        checkpoint = Checkpoint(OpenVLA.from_pretrained(
            self.target, self.device).requires_grad_(False), self.key)
        _check_actions(self.recordings, checkpoint)
        _check_instructions(self.recordings, checkpoint)
        self._chunk = checkpoint.space.chunk
        words = Words(args.out / WORDS, checkpoint, self.sha256, RegenerateArgs(
            target=self.target, paths=_EAGLE_PATHS if args.eagle else 1, batch=args.batch,
            lanes=args.lanes, device=self.device, seed=args.seed), args.eagle)
        take = not args.eagle and self._may_take(checkpoint)
        frames = sum(map(len, self.division.learned))
        every = -(-frames // args.frames)
        thinned = [Thinned(piece, every, take) for part in self.division.learned
                   for piece in cut(part, every * _PIECE)]
        length = checkpoint.space.length
        self._taken = sum(int((part.said(length)[:, 0] >= 0).sum()) for part in thinned)
        missing = words.missing(thinned)
        room = words.check_room(missing)
        self._tell_takes(thinned, missing, room, words.seconds(missing))
        words.write(thinned, self.console, args.ray)
        return thinned

    def _may_take(self, checkpoint: Checkpoint) -> bool:
        """Whether recorded words are this target's own: said so, and seen in a spot check."""
        same, count = spot_check(checkpoint, self.division.learned)
        if not count:
            return False
        if same < count - _OTHERS:
            self._say(f'recorded words are not taken: this checkpoint says others to '
                      f'{count - same} of {count} frames')
            return False
        self._say(f'recorded words are taken: this checkpoint says the same to {same} of {count} '
                  'frames')
        return True

    def _teaching(self, frames: int) -> Teaching:
        args, work = self.args, self.args.out / WORK
        shutil.rmtree(work, ignore_errors=True)  # of an interrupted run
        return Teaching(
            self.target, self.key, args.out / WORDS, frames, self.present, work / DRAFTERS,
            args.minutes, args.epochs, args.teaching_lanes(), self.device,
            args.seed)

    def _teach(self, lesson: Lesson, teaching: Teaching) -> OpenVLA:
        progress = TrainingProgress(f'teach {lesson.name}', self.console)
        with progress:
            return teaching.train(lesson, progress)

    def _compare(self, lesson: Lesson, teaching: Teaching, model: OpenVLA) -> list[Comparison]:
        """Let old and new weights decode frames that were not learned from."""
        begun, why = begins_with(lesson.name, self.present, model)
        before = lesson.without if begun is None else lesson.presets
        if begun is None:
            self._say(f'{lesson.name} began with new weights: {why}')
        old, new = (Checkpoint(model, self.key, folder, folder=self.target)
                    for folder in (self.present, teaching.out))
        actors = {f'{when} {rule}': Policy(checkpoint, load_preset(preset))
                  for when, checkpoint, presets in (('before', old, before),
                                                    ('after', new, lesson.presets))
                  for rule, preset in zip(_RULES, presets, strict=True)}
        parts = self.division.held_out
        columns = (TextColumn('measure'), BarColumn(), MofNCompleteColumn(),
                   TimeRemainingColumn())
        with terminal_bar(self.console, *columns) as bar:
            task = bar.add_task('', total=min(self.args.measured, sum(map(len, parts))))
            acted = play(actors, parts, self.args.measured, lambda: bar.advance(task))
        found = [Comparison.of(rule, presets, acted[f'before {rule}'], acted[f'after {rule}'])
                 for rule, presets in zip(_RULES, zip(before, lesson.presets, strict=True),
                                          strict=True)]
        self._say(f'{lesson.name}, on {counted(found[0].actions, "frame")} that it did not '
                  f'learn from ({self.division.kind}):')
        for comparison in found:
            self._say(f'  {comparison}')
        self._say(f'  strict: {found[0].same} of {found[0].actions} actions are the same, token '
                  'by token')
        return found

    def _leave(
        self, made: dict[str, Any], comparisons: dict[str, list[Comparison]], kept: list[str]
    ) -> None:
        """Write the drafters that are kept, with their cards, and the report; say where."""
        args = self.args
        report = {'target': str(self.target), 'target_sha256': self.sha256, 'made_of': made,
                  'kept': kept, 'too_little': self.division.too_little, 'comparisons': {
                      name: [it.facts() for it in found] for name, found in comparisons.items()}}
        cards = {name: card(name, self.target, self.sha256, made, comparisons[name])
                 for name in kept}
        # On a full disk neither is replaced: a report never speaks of drafters that aren't there.
        with whole_file(args.out / REPORT) as temporary:
            temporary.write_text(json_text(report), encoding='utf-8')
            if kept:
                self._replace(cards)
        self._tell_kept(kept)

    def _replace(self, cards: dict[str, str]) -> None:
        """Put what was taught in place of the old drafters, beside those that were not taught."""
        work, present = self.args.out / WORK / DRAFTERS, all_weights(self.present)
        with whole_folder(self.args.out / DRAFTERS) as folder:
            for name, place in (present | {name: work / name for name in cards}).items():
                shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns(
                    *all_weights(place)))
            for name, text in cards.items():
                (folder / name / 'README.md').write_text(text, encoding='utf-8')

    def _tell_takes(
        self, thinned: Sequence[Thinned], missing: Sequence[Thinned], room: int, seconds: float
    ) -> None:
        args, frames = self.args, sum(map(len, thinned))
        every = f', each {thinned[0].every}th' if thinned[0].every > 1 else ''
        there = frames - sum(map(len, missing))
        known = f' ({there} are there from an earlier run)' if there else ''
        self._say(
            f'takes: {counted(frames, "frame")} to learn from{every}{known}, about '
            f'{_time(seconds)} and {room / 1e6:.0f} MB; to teach '
            f'{"two drafters" if args.eagle else "a drafter"}, at most '
            f'{_time(60 * args.minutes * (2 if args.eagle else 1))}; then to measure')

    def _tell_kept(self, kept: list[str]) -> None:
        if self.division.too_little:
            self._say(f'The old weights stay: {self.division.too_little}.')
        elif not kept:
            self._say('The old weights stay: the new ones are not surely better.')
        else:
            self._say(f'The new weights are better: use them with --drafter '
                      f'{self.args.out / DRAFTERS}, or drafter:= of the node.')
        self._say(f'{self.args.out / REPORT}')

    def _say(self, line: str) -> None:
        say(self.console, line)


def _check_actions(recordings: Sequence[Recording], checkpoint: Checkpoint) -> None:
    """Refuse recordings of a robot that moves in another number of dimensions."""
    wanted = checkpoint.space.action_dim
    for recording in recordings:
        for episode in recording.episodes:
            if episode.actions is not None and episode.actions.shape[1] != wanted:
                raise SpecVLAError(
                    f'{recording.path}, {episode.name}: actions are of {episode.actions.shape[1]} '
                    f'dimensions, those of this checkpoint of {wanted}: it is the recording of '
                    'another robot')


def _check_instructions(recordings: Sequence[Recording], checkpoint: Checkpoint) -> None:
    """Refuse what this checkpoint can't be told, before anything is computed."""
    known: set[str] = set()
    for recording in recordings:
        for episode in recording.episodes:
            if episode.instruction not in known:
                with naming(f'{recording.path}, {episode.name}'):
                    checkpoint.prompt_ids(episode.instruction)
            known.add(episode.instruction)


def _time(seconds: float) -> str:
    return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'

"""What a training shows while it runs: a bar on a terminal, a line a measurement anywhere."""

from collections.abc import Sequence
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from specvla_ros.errors import counted
from specvla_ros.progress import LiveProgress, terminal_bar
from specvla_ros.training.recipe import Loss

_SHOW_EVERY = 1.0  # seconds


class TrainingProgress(LiveProgress):
    """
    A progress bar over the share that is done, with loss, frames/s and time left.

    chunk: steps of an action; a measurement has a line for each.
    """

    def __init__(self, title: str, console: Console, chunk: int = 1) -> None:
        self._chunk = chunk
        super().__init__(terminal_bar(
            console, TextColumn('{task.description}'), BarColumn(),
            TextColumn('{task.percentage:.1f} %'), TextColumn('{task.fields[note]}')))
        self._task = self._bar.add_task(title, total=1.0, note='')
        self._shown = 0.0

    def loading(self, done: int, total: int) -> None:
        """Tell about episodes being read."""
        if done in (1, total) or done % 50 == 0:
            self.say(f'episodes read: {done} of {total}')

    def update(
        self, done: float, elapsed: float, speed: float, losses: Sequence[Loss]
    ) -> None:
        """Move the bar: share done, seconds so far, frames a second, losses since the last."""
        if time.monotonic() - self._shown < _SHOW_EVERY:
            return
        self._shown = time.monotonic()
        recent = [float(loss.tokens) for loss in losses[-40:]]
        loss = sum(recent) / len(recent) if recent else float('nan')
        left = elapsed / done - elapsed if done > 0 else float('nan')
        self._bar.update(self._task, completed=done, note=(
            f'loss {loss:.3f}  {speed:.0f} frames/s  {left / 60:.0f} min left'))

    def point(self, point: dict) -> None:
        """Print one measurement."""
        loss = point.get('loss')
        words = [f'{point["minutes"]:6.1f} min', f'step {point["step"]}',
                 f'epoch {point["epoch"]:.2f}', counted(point['frames'], 'frame'),
                 'loss -' if loss is None else f'loss {loss:.3f}']
        if point.get('state_loss') is not None:
            words.append(f'state {point["state_loss"]:.3f}')
        words.append(f'{point["samples_per_s"]:.0f}/s')
        for key, label in (('held_out_exact', 'exact'), ('held_out_within_9', 'within 9')):
            if point.get(key):
                shares = [f'{100 * share:.0f}' for share in point[key]]
                size = len(shares) // self._chunk
                for step in range(self._chunk):
                    of_step = f'\n    step {step}  ' if self._chunk > 1 else ''
                    said = ' '.join(shares[step * size:(step + 1) * size])
                    words.append(f'{of_step}{label} % {said}')
        self.say('  '.join(words))

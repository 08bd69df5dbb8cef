"""Live progress of episodes: a bar with an estimate on a terminal, a line each elsewhere."""

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.text import Text

from specvla_ros.benchmark.episodes.trial import Playing
from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.errors import counted
from specvla_ros.progress import episode_columns, LiveProgress, terminal_bar

# The estimate looks back over the whole run: episodes differ by a factor of three.
ESTIMATE_WINDOW_S = 24 * 3600.0
USUAL_STEPS = 100.0  # of an episode, before one has been seen


class _Bar(Progress):
    """A bar, and under it what is going on: side by side they don't fit 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            text = Text.from_markup(f'{task.description}   [dim]{task.fields["now"]}[/dim]')
            text.no_wrap, text.overflow = True, 'ellipsis'
            yield text


class EpisodeProgress(LiveProgress):
    """Shows how many episodes are done, how they ended and what is being played."""

    def __init__(self, console: Console, total: int, finished: Sequence[EpisodeRecord],
                 decoders: Sequence[str]) -> None:
        """
        Count from the episodes that are there already.

        :param total: episodes in all, the finished ones included
        """
        self._console, self._total = console, total
        self._solved = dict.fromkeys(decoders, 0)
        self._ended = dict.fromkeys(decoders, 0)
        self._crashes = 0
        self._steps: list[int] = []  # of the episodes that are done
        self._under_way: dict[tuple[int, int, str], Playing] = {}
        for episode in finished:
            self._count(episode)
        super().__init__(terminal_bar(
            console, *episode_columns(), kind=_Bar, speed_estimate_period=ESTIMATE_WINDOW_S))
        self._task = self._bar.add_task(
            self._summary(), total=total, completed=len(finished), now='loading')

    def playing(self, episode: Playing) -> None:
        """Show how far an episode is."""
        self._under_way[episode.task, episode.state, episode.decoder] = episode
        self._update()

    def finished(self, episode: EpisodeRecord) -> None:
        """Count an episode and say how it ended."""
        self._under_way.pop((episode.task, episode.state, episode.decoder), None)
        self._count(episode)
        outcome = f'crashed: {episode.crash}' if episode.crash is not None else \
            'solved' if episode.success else 'not solved'
        if not self._console.is_terminal or episode.crash is not None:
            done = sum(self._ended.values()) + self._crashes
            self.say(
                f'{done}/{self._total}  {episode.suite} task {episode.task} state '
                f'{episode.state}  {episode.decoder}: {outcome} '
                f'({counted(episode.steps, "step")})')
        self._update()

    def _count(self, episode: EpisodeRecord) -> None:
        self._steps.append(episode.steps)
        if episode.crash is not None:
            self._crashes += 1
            return
        self._ended[episode.decoder] += 1
        self._solved[episode.decoder] += episode.success

    def _summary(self) -> str:
        parts = [f'{name} {self._solved[name]}/{self._ended[name]}' for name in self._ended]
        if self._crashes:
            parts.append(f'[red]crashes {self._crashes}[/red]')
        return '  '.join(parts)

    def _update(self) -> None:
        now = ', '.join(f'{e.decoder}, task {e.task} state {e.state}: step {e.steps}{e.note}'
                        for e in self._under_way.values())
        # An episode under way counts by its share of the usual length, so that the estimate
        # moves within it as well.
        usual = sum(self._steps) / len(self._steps) if any(self._steps) else USUAL_STEPS
        begun = sum(min(0.95, e.steps / usual) for e in self._under_way.values())
        self._bar.update(self._task, description=self._summary(), now=now,
                         completed=len(self._steps) + begun)

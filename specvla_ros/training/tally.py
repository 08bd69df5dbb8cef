"""How many episodes of each task were solved, by whom, and which were not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from specvla_ros.errors import counted


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode ended; alone: the policy drove at every step, the expert at none."""

    solved: bool
    alone: bool = False


class Tally:
    """
    Outcomes of episodes, by task and seed.

    of_policy: whether a policy drives, so that it matters which it solved alone.
    """

    def __init__(self, of_policy: bool = False) -> None:
        self.of_policy = of_policy
        self._outcomes: dict[int, dict[int, Outcome]] = {}

    def add(self, task: int, seed: int, outcome: Outcome) -> None:
        """Take in an episode."""
        self._outcomes.setdefault(task, {})[seed] = outcome

    @property
    def tasks(self) -> list[int]:
        """The tasks that were played, in order."""
        return sorted(self._outcomes)

    @property
    def played(self) -> int:
        """Episodes of all tasks."""
        return len(self._all())

    @property
    def summary(self) -> str:
        """How many episodes there are, how many were solved[, and by the policy alone]."""
        solved, alone = _counts(self._all())
        return (f'{counted(self.played, "episode")}, {solved} solved'
                + (f', {alone} by the policy alone' if self.of_policy else ''))

    def rows(self) -> list[tuple[str, ...]]:
        """Return (task, solved[, by the policy alone], seeds not solved), of `all` last."""
        rows = []
        for task in self.tasks:
            outcomes = self._outcomes[task]
            seeds = _seeds([seed for seed, outcome in outcomes.items() if not outcome.solved])
            rows.append((str(task), *self._shares([*outcomes.values()]), seeds))
        return [*rows, ('all', *self._shares(self._all()), '')]

    def print(self, title: str, instructions: Mapping[int, str]) -> None:
        """Print the rows as a table; instructions: what each task asks for."""
        from rich.console import Console
        from rich.table import Table
        alone = ['by the policy alone'] * self.of_policy
        table = Table('task', 'solved', *alone, 'not solved: seeds', 'instruction', title=title)
        for cells, number in zip(self.rows(), [*self.tasks, None], strict=True):
            table.add_row(*cells, '' if number is None else instructions[number])
        Console().print(table)

    def _all(self) -> list[Outcome]:
        return [outcome for task in self._outcomes.values() for outcome in task.values()]

    def _shares(self, outcomes: list[Outcome]) -> list[str]:
        """Return the cells that say how many of them were solved[, and by the policy alone]."""
        counts = _counts(outcomes)[:1 + self.of_policy]
        return [f'{count} of {len(outcomes)}' for count in counts]


def _counts(outcomes: list[Outcome]) -> tuple[int, int]:
    """Return how many were solved, and how many of these by the policy alone."""
    solved = [outcome for outcome in outcomes if outcome.solved]
    return len(solved), sum(outcome.alone for outcome in solved)


def _seeds(seeds: list[int], most: int = 10) -> str:
    """Return the first seeds, in order; how many more there are is said."""
    seeds = sorted(seeds)
    more = f' and {len(seeds) - most} more' if len(seeds) > most else ''
    return ' '.join(map(str, seeds[:most])) + more

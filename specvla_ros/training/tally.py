"""How many episodes of each task were solved, and which were not."""

from __future__ import annotations

from collections.abc import Mapping


class Tally:
    """Outcomes of episodes, by task and seed."""

    def __init__(self) -> None:
        self._won: dict[int, dict[int, bool]] = {}

    def add(self, task: int, seed: int, won: bool) -> None:
        """Take in an episode."""
        self._won.setdefault(task, {})[seed] = won

    @property
    def tasks(self) -> list[int]:
        """The tasks that were played, in order."""
        return sorted(self._won)

    @property
    def played(self) -> int:
        """Episodes of all tasks."""
        return sum(len(episodes) for episodes in self._won.values())

    @property
    def solved(self) -> int:
        """Solved episodes of all tasks."""
        return sum(sum(episodes.values()) for episodes in self._won.values())

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (task, solved of played, seeds of those that were not solved), `all` last."""
        rows = [(str(task), _share(sum(self._won[task].values()), len(self._won[task])),
                 _seeds([seed for seed, won in self._won[task].items() if not won]))
                for task in self.tasks]
        return [*rows, ('all', _share(self.solved, self.played), '')]

    def print(self, title: str, instructions: Mapping[int, str]) -> None:
        """Print the rows as a table; instructions: what each task asks for."""
        from rich.console import Console
        from rich.table import Table
        table = Table('task', 'solved', 'not solved: seeds', 'instruction', title=title)
        for (task, solved, seeds), number in zip(self.rows(), [*self.tasks, None], strict=True):
            table.add_row(task, solved, seeds, '' if number is None else instructions[number])
        Console().print(table)


def _share(solved: int, played: int) -> str:
    return f'{solved} of {played}'


def _seeds(seeds: list[int], most: int = 10) -> str:
    """Return the first seeds, in order; how many more there are is said."""
    seeds = sorted(seeds)
    more = f' and {len(seeds) - most} more' if len(seeds) > most else ''
    return ' '.join(map(str, seeds[:most])) + more

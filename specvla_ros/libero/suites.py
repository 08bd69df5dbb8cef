"""
The LIBERO suites: names, step limits and tasks, readable without the simulator.

Step limits are those of OpenVLA's LIBERO evaluation, stored initial states are LIBERO's own (50 a
task).
"""

import ast
from collections.abc import Collection, Sequence
from dataclasses import dataclass
import importlib.util
from pathlib import Path

from specvla_ros.embedded import embedded_names

# Longest expert demonstration of each suite, rounded up, as OpenVLA's evaluation uses them.
MAX_STEPS = {
    'libero_spatial': 220,
    'libero_object': 280,
    'libero_goal': 300,
    'libero_10': 520,
    'libero_90': 400,
}
SUITES = tuple(MAX_STEPS)
USUAL = 'libero_object'
N_INITIAL_STATES = 50
# Published checkpoints name their data sets so: without the steps in which nothing moves.
NO_NOOPS = '_no_noops'


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a suite: its index, its name (= file stem) and its instruction."""

    suite: str
    task_id: int
    name: str

    @property
    def instruction(self) -> str:
        """What the robot is told; LIBERO derives it from the file name as well."""
        words = self.name.split('_')
        if words[0].isupper():  # libero_10 and libero_90: KITCHEN_SCENE3_turn_on_the_stove…
            scene = next(i for i, word in enumerate(words) if word.startswith('SCENE'))
            words = words[scene + 1:]
        return ' '.join(words)


def package_folder() -> Path:
    """
    Return the folder of the installed `libero.libero`, without importing it.

    Importing it asks a question on stdin where no configuration is written yet.

    :raises FileNotFoundError: LIBERO isn't installed
    """
    spec = importlib.util.find_spec('libero')
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (folder := Path(location) / 'libero').is_dir():
            return folder
    raise FileNotFoundError(
        "LIBERO isn't installed in this Python environment: run `make setup`, or "
        '`pip install --no-deps hf-libero==0.1.4`')


def check_suite(suite: str) -> str:
    """Return `suite` if it exists, else raise a ValueError that lists those that do."""
    if suite not in SUITES:
        raise ValueError(f'unknown suite {suite!r}; there are: {", ".join(SUITES)}')
    return suite


def tasks(suite: str) -> list[Task]:
    """
    Return the tasks of a suite, in LIBERO's order.

    :raises ValueError: unknown suite
    """
    check_suite(suite)
    # The order is a table in LIBERO's source; it is read, not run (see package_folder).
    source = package_folder() / 'benchmark' / 'libero_suite_task_map.py'
    table = next(node.value for node in ast.parse(source.read_text()).body
                 if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
                 and node.targets[0].id == 'libero_task_map')
    names = ast.literal_eval(table)[suite]
    return [Task(suite, index, name) for index, name in enumerate(names)]


def task(suite: str, task_id: int) -> Task:
    """
    Return one task.

    :raises ValueError: unknown suite, or a task number outside it
    """
    listed = tasks(suite)
    if not 0 <= task_id < len(listed):
        lines = '; '.join(f'{t.task_id} {t.instruction}' for t in listed)
        raise ValueError(f'{suite} has no task {task_id}; there are: {lines}')
    return listed[task_id]


def scene_file(task: Task) -> Path:
    """Return a task's BDDL file: what its scene contains, and its goal."""
    return package_folder() / 'bddl_files' / task.suite / f'{task.name}.bddl'


def suites_of(keys: Collection[str]) -> tuple[str, ...]:
    """Return the suites whose own statistics are among those of a checkpoint."""
    return tuple(suite for suite in SUITES if suite in keys or suite + NO_NOOPS in keys)


def statistics_key(suite: str, keys: Collection[str]) -> str:
    """
    Return the name of a suite's own statistics among those a checkpoint has.

    :raises ValueError: there are none: those of another data set would scale its motion
    """
    wanted = (suite, suite + NO_NOOPS)
    for key in wanted:
        if key in keys:
            return key
    remedy = (f'give --checkpoint {suite}' if suite in embedded_names() else
              'evaluate a suite it was trained on')
    raise ValueError(f'the checkpoint has no statistics of {suite} ({" or ".join(wanted)}), only '
                     f'of {", ".join(sorted(keys)) or "nothing"}; {remedy}')


def statistics_keys(
    names: Sequence[str], keys: Collection[str], wanted: str | None
) -> dict[str, str]:
    """
    Return the statistics' key for each suite: its own, or the one that is asked for.

    :param keys: those the checkpoint has
    :param wanted: what the user asks for; None = each suite's own
    :raises ValueError: the checkpoint hasn't got it, or it is one suite's own and there are others
    """
    if wanted is None:
        try:
            return {suite: statistics_key(suite, keys) for suite in names}
        except ValueError as error:
            raise ValueError(f'{error}, or name the statistics to use with --unnorm-key') from None
    if wanted not in keys:
        raise ValueError(f'--unnorm-key {wanted}: the checkpoint has no such statistics, must be '
                         f'one of {", ".join(sorted(keys)) or "none"}')
    owner = wanted.removesuffix(NO_NOOPS)
    if owner in SUITES and len(names) > 1:
        raise ValueError(f'--unnorm-key {wanted} is of {owner}, and can be right for one of the '
                         f'suites {", ".join(names)} only; leave it out, and each suite is '
                         'evaluated with its own, or evaluate one suite at a time')
    return dict.fromkeys(names, wanted)

"""
The LIBERO suites: names, step limits and tasks, readable without the simulator.

Step limits are those of OpenVLA's LIBERO evaluation, stored initial states are LIBERO's own (50 a
task).
"""

import ast
from dataclasses import dataclass
import importlib.util
from pathlib import Path

# Longest expert demonstration of each suite, rounded up, as OpenVLA's evaluation uses them.
MAX_STEPS = {
    'libero_spatial': 220,
    'libero_object': 280,
    'libero_goal': 300,
    'libero_10': 520,
    'libero_90': 400,
}
SUITES = tuple(MAX_STEPS)
N_INITIAL_STATES = 50


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
                 if isinstance(node, ast.Assign) and node.targets[0].id == 'libero_task_map')
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

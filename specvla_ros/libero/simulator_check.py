"""Check that the simulator will run: its assets, the stored states, the renderer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specvla_ros.libero import initial_states, suites
from specvla_ros.libero.assets import installed_assets
from specvla_ros.libero.renderer import check_renderer, check_setting


def check_simulator(tasks: Mapping[str, Sequence[int]]) -> None:
    """
    Check what these tasks of these suites need, in the order of what it costs.

    :raises ValueError, FileNotFoundError: what is missing or damaged, and what to do
    """
    check_setting()
    installed_assets()
    for suite, numbers in tasks.items():
        for number in numbers:
            initial_states.read(initial_states.path_of(suites.task(suite, number)))
    check_renderer()

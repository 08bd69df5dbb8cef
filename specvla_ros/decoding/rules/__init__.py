"""
Acceptance rules by name, one file each.

A rule is a frozen dataclass of settings with a ``reach`` (see ``rule.Rule``). A new one is a
new file in this folder, whose class registers itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from specvla_ros.errors import SpecVLAError
from specvla_ros.registry import Registry
from specvla_ros.typed_files import is_number

if TYPE_CHECKING:
    from .rule import Rule

RULES: Registry[Rule] = Registry('rule', __name__)


def make_rule(name: str, settings: Mapping[str, object]) -> Rule:
    """Make a rule from configuration; raise SpecVLAError for what does not exist."""
    return RULES.make(name, settings)


def check_number(
    rule: str, name: str, value: object, least: float, most: float, whole: bool = False
) -> None:
    """Raise SpecVLAError unless a setting is a number, or a whole one, from least to most."""
    if not (is_number(value) and least <= value <= most and (type(value) is int or not whole)):
        raise SpecVLAError(f'{name} of the rule {rule} is {value!r}, must be a '
                           f'{"whole " * whole}number from {least:g} to {most:g}')

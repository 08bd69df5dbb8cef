"""
Acceptance rules by name, one file each.

A rule is a frozen dataclass of settings with a ``reach`` (see ``acceptance.Rule``). A new one is a
new file in this folder, whose class registers itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from specvla_ros.registry import Registry

if TYPE_CHECKING:
    from specvla_ros.decoding.acceptance import Rule

RULES: Registry[Rule] = Registry('rule', __name__)


def make_rule(name: str, settings: Mapping[str, object]) -> Rule:
    """Make a rule from configuration; raise SpecVLAError for what does not exist."""
    return RULES.make(name, settings)

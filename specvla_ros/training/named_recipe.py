"""Settings of a training that have a name: a file in ``config/recipes``."""

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, get_type_hints, TypeVar

from specvla_ros.config_folder import config_folder
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.typed_files import check_keys, read_yaml, value_of

OURS = 'ours'  # what the arguments say themselves

Settings = TypeVar('Settings')


def recipe_names() -> list[str]:
    """Names of the recipes there are."""
    return [OURS, *sorted(path.stem for path in (config_folder() / 'recipes').glob('*.yaml'))]


def with_recipe(args: Settings, name: str) -> Settings:
    """
    Return the arguments of a training with the settings of a recipe in them.

    :raises SpecVLAError: no such recipe, a setting it can't have, or an argument that contradicts
        it: a training must be what its name says
    """
    if name not in recipe_names():
        raise SpecVLAError(f'--recipe {name}: must be one of {", ".join(recipe_names())}')
    if name == OURS:
        return args
    path = config_folder() / 'recipes' / f'{name}.yaml'
    return _merged(args, type(args)(), read_yaml(path), path, f'recipe {name}')


def _merged(given: Any, usual: Any, said: Mapping[str, Any], path: Any, recipe: str,
            prefix: str = '') -> Any:
    """Put what a recipe says into a dataclass of arguments; usual: the arguments' defaults."""
    hints = get_type_hints(type(usual))
    check_keys(path, said, required=(), optional=hints)
    changed: dict[str, Any] = {}
    for name, value in said.items():
        now, default, option = getattr(given, name), getattr(usual, name), f'{prefix}{name}'
        if is_dataclass(default):
            if not isinstance(value, Mapping):
                raise SpecVLAError(f'{path}: {option} is {shown(value)}, must be a mapping')
            changed[name] = _merged(now, default, value, path, recipe, f'{option}.')
            continue
        wanted = value_of(hints[name], value, f'{path}: {option}')
        if now not in (default, wanted):
            flag = option.replace('_', '-')
            raise SpecVLAError(f'--{flag} {now}: {recipe} says {wanted}; leave out --{flag}, or '
                               '--recipe')
        changed[name] = wanted
    return replace(given, **changed)

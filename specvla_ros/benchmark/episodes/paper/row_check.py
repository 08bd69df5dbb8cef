"""Figures from a file are checked before they stand in a table: a file may have been edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specvla_ros.benchmark.acceptance_figures import LIBERO_TOKENS
from specvla_ros.errors import SpecVLAError
from specvla_ros.typed_files import value_of

_PAIR = tuple[float, float]
_REQUIRED = {'suite': str, 'decoder': str, 'episodes': int, 'successes': int, 'actions': int,
             'success_rate': float, 'success_interval': _PAIR}
_OPTIONAL = {'crashes': int, 'acceptance_length': float | None, 'speedup_vs_ar': float | None,
             'speedup_interval': _PAIR | None}
_FIGURE = {'value': float | None, 'interval': _PAIR | None, 'n': int}


def check_row(row: Mapping[str, Any], place: str) -> None:
    """
    Check what a report reads of a row.

    :raises SpecVLAError: a figure is missing or of another type, with its name behind `place`
    """
    _check(row, _REQUIRED, place)
    _check({name: row[name] for name in _OPTIONAL if name in row},
           {name: kind for name, kind in _OPTIONAL.items() if name in row}, place)
    if against := row.get('success_vs_ar'):
        _check(against, {'pairs': int, 'points': float, 'interval': _PAIR},
               f'{place}: success_vs_ar')
    if passes := row.get('passes_per_action'):
        _check(passes, {'mean': float, 'interval': _PAIR | None}, f'{place}: passes_per_action')
    if figures := row.get('acceptance'):
        place = f'{place}: acceptance'
        _check(figures, {'length': dict, 'shares': list, 'by_token': dict}, place)
        by_token = figures['by_token']
        if unknown := set(by_token) - set(LIBERO_TOKENS):
            raise SpecVLAError(f'{place}: by_token has {", ".join(sorted(unknown))}, must be of '
                               f'{", ".join(LIBERO_TOKENS)}')
        for figure in (figures['length'], *figures['shares'], *by_token.values()):
            _check(figure, _FIGURE, place)


def _check(values: Any, kinds: Mapping[str, Any], place: str) -> None:
    if not isinstance(values, Mapping):
        raise SpecVLAError(f'{place} must be an object')
    for name, kind in kinds.items():
        if name not in values:
            raise SpecVLAError(f'{place} has no {name}')
        value = values[name]
        if kind in (list, dict):
            if not isinstance(value, kind):
                raise SpecVLAError(f'{place}: {name} must be '
                                   f'{"a list" if kind is list else "an object"}')
        else:
            value_of(kind, value, f'{place}: {name}')

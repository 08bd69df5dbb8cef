"""A target as the training commands take it: whole, with statistics of the suite."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from specvla_ros.data_sets import load_dataset
from specvla_ros.drafter_folders import beside
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero import suites
from specvla_ros.policy_check import check_policy
from specvla_ros.writable import check_writable


def check_target(target: Path, suite: str, unnorm_key: str | None, device: str) -> str:
    """
    Check a target's folder before its weights are read; return its key of the statistics.

    :param unnorm_key: what the user asks for; None = the suite's own
    :raises ValueError, FileNotFoundError: what is wrong and what is allowed
    """
    keys = check_policy(target, beside(target), (), device)
    if unnorm_key is None and suite not in suites.SUITES:  # a data set of the user's own
        unnorm_key = suite
    key = suites.statistics_keys((suite,), keys, unnorm_key)[suite]
    load_dataset(key)
    return key


def initial_key(init: Path, suite: str, unnorm_key: str | None, device: str) -> str | None:
    """
    Check the folder a training starts from; return the key of the statistics that it goes on with.

    None: it has none of this suite, so they are to be measured on the episodes.

    :raises ValueError, FileNotFoundError: what is wrong and what is allowed
    """
    if unnorm_key is not None:
        return check_target(init, suite, unnorm_key, device)
    keys = check_policy(init, beside(init), (), device)
    key = next((key for key in (suite, suite + suites.NO_NOOPS) if key in keys), None)
    load_dataset(key or suite)
    return key


def check_place(option: str, folder: Path, keep: Collection[str] = ()) -> None:
    """
    Check that a network can be written in place of a folder, which is what training does.

    :param keep: what in it stays
    :raises SpecVLAError: it can't be written, or something else than a network would be lost
    """
    check_writable(option, folder)
    if folder.is_dir() and {found.name for found in folder.iterdir()} - {*keep} and not (
            folder / 'config.json').is_file():
        raise SpecVLAError(f'{option} {folder} holds something that is no checkpoint, and would '
                           'be replaced; give another folder')

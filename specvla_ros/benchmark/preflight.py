"""Checks of all commands with a policy, before anything is written: checkpoint and statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from specvla_ros.benchmark import machine
from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.configuration import DecoderConfig
from specvla_ros.data_sets import load_dataset
from specvla_ros.drafter_folders import beside
from specvla_ros.execution import check_execute_steps
from specvla_ros.libero import suites


def check_policy(args: PolicyArgs, decoders: Iterable[DecoderConfig]) -> frozenset[str]:
    """
    Check a checkpoint, its drafter, and how they are to be used; return its statistics' keys.

    :raises ValueError, FileNotFoundError: what is wrong and what is allowed
    """
    from specvla_ros import policy_check  # imports torch

    folder, _ = machine.checkpoint_folders(args.checkpoint, args.drafter)
    return policy_check.check_policy(folder, args.drafter or beside(folder), decoders,
                                     args.device, args.dtype, args.quantization, args.chunk)


def execute_steps(args: PolicyArgs, wanted: int | None) -> tuple[int, int]:
    """
    Return H and E of a checkpoint that was checked: steps of an action, and those executed.

    :param wanted: E; None = what the checkpoint recommends, else all
    :raises ValueError, FileNotFoundError: it can't be read, or an action has fewer steps
    """
    from specvla_ros.openvla.checkpoint import read_config

    folder, _ = machine.checkpoint_folders(args.checkpoint, args.drafter)
    said = read_config(folder)  # `check_policy` has read it with care
    chunk = said.get('chunk') or args.chunk or 1
    check_execute_steps(wanted, chunk)
    return chunk, wanted or said.get('execute_steps') or chunk


def usual_decoders(args: PolicyArgs, usual: Sequence[str], for_chunks: Sequence[str]
                   ) -> tuple[str, ...]:
    """Return the decoders to take where none is named, by the control steps of an action."""
    try:
        chunk, _ = execute_steps(args, None)
    except (ValueError, OSError):
        chunk = 1  # `check_policy` says what is wrong with the checkpoint
    return tuple(for_chunks if chunk > 1 else usual)


def statistics_of(args: PolicyArgs) -> frozenset[str]:
    """
    Return the keys of the statistics that a checkpoint has.

    :raises ValueError, FileNotFoundError: it can't be read
    """
    from specvla_ros.openvla.checkpoint import read_config, read_norm_stats

    folder, _ = machine.checkpoint_folders(args.checkpoint, args.drafter)
    return frozenset(read_norm_stats(folder, read_config(folder)))


def suite_of(args: PolicyArgs, wanted: str) -> str:
    """
    Return the suite to play: the one asked for, else one that the checkpoint was trained on.

    `libero_object` comes first. It is returned as well where nothing is known: the checks that
    follow say what is wrong with the checkpoint.
    """
    if wanted:
        return wanted
    try:
        own = suites.suites_of(statistics_of(args))
    except (ValueError, OSError):
        own = ()
    return suites.USUAL if suites.USUAL in own or not own else own[0]


def keys_of_suites(names: Sequence[str], keys: Collection[str], wanted: str | None
                   ) -> dict[str, str]:
    """
    Return the statistics' key of each suite, all with a configuration; see `statistics_keys`.

    :raises ValueError: as that, or a key has no configuration of its actions
    """
    found = suites.statistics_keys(names, keys, wanted)
    for key in found.values():
        load_dataset(key)
    return found

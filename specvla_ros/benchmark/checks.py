"""Arguments that `eval` and `demo` share, checked before anything heavy is loaded."""

from collections.abc import Sequence
from pathlib import Path

from specvla_ros.configuration import DecoderConfig, load_preset
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero import suites
from specvla_ros.typed_files import is_number

# What is compared where no decoder is named: the baseline, the fastest lossless, the fastest.
DECODERS = ('ar', 'auto', 'auto_relaxed')
MOST_STEPS = 64  # of an action, as the node's parameter `chunk`
MOST_SEED = 2**31  # a random start adds a base and its number to it; numpy takes less than 2³²


def check_tasks(suite: str, wanted: Sequence[int]) -> tuple[int, ...]:
    """
    Return the tasks of a suite to play, all where none is named.

    :raises ValueError: unknown suite or task
    """
    if not wanted:
        return tuple(task.task_id for task in suites.tasks(suite))
    return tuple(suites.task(suite, number).task_id for number in dict.fromkeys(wanted))


def check_decoders(names: Sequence[str]) -> dict[str, DecoderConfig]:
    """
    Return the decoders by the name their reports carry, in the order given.

    :param names: names of presets or paths of YAML files
    :raises ValueError: unknown preset (lists them), or a name that comes twice
    """
    decoders: dict[str, DecoderConfig] = {}
    for name in names:
        config = load_preset(name)
        if config.name in decoders:
            raise SpecVLAError(f'--decoder {name}: there is a decoder {config.name} already; '
                               'name each once, and files differently')
        decoders[config.name] = config
    return decoders


def name_or_full_path(decoder: str) -> str:
    """Return the name of a preset as it is, a file by its full path: for other processes."""
    return str(Path(decoder).resolve()) if Path(decoder).suffix in ('.yaml', '.yml') else decoder


def drafter_and_rule(config: DecoderConfig) -> str:
    """Name a decoder's drafter, rule and settings in a few words."""
    if config.candidates:
        drafter = f'the cheapest of {", ".join(it.name for it in config.candidates)}'
    else:
        drafter = f'{config.drafter.name} + {config.rule.name}'
    settings = [f'{name} = {value:g}' for name, value in config.rule.settings.items()
                if is_number(value)]
    return ', '.join((drafter, *settings))


def check_states(trials: int) -> int:
    """
    Return `trials` if LIBERO stores that many initial states.

    :raises SpecVLAError: fewer than 1 or more than there are
    """
    if not 1 <= trials <= suites.N_INITIAL_STATES:
        raise SpecVLAError(f'--trials {trials}: LIBERO stores initial states 0 to '
                           f'{suites.N_INITIAL_STATES - 1}, so give 1 to '
                           f'{suites.N_INITIAL_STATES}')
    return trials


def check_chunk(chunk: int | None) -> None:
    """Raise a SpecVLAError for a number of control steps that no action has."""
    if chunk is not None and not 1 <= chunk <= MOST_STEPS:
        raise SpecVLAError(f'--chunk {chunk}: give 1 to {MOST_STEPS} control steps')


def check_seed(seed: int) -> None:
    """Raise a SpecVLAError for a seed that random starts can't have."""
    if not 0 <= seed <= MOST_SEED:
        raise SpecVLAError(f'--seed {seed}: give 0 to {MOST_SEED}')


def check_at_least(option: str, value: int | None, least: int) -> None:
    """Raise a SpecVLAError where an optional number is too small."""
    if value is not None and value < least:
        raise SpecVLAError(f'{option} {value}: give {least} or more')

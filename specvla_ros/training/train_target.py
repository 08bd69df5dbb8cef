"""
`specvla train target`: teach an OpenVLA of small dimensions to imitate the collected episodes.

Episodes that are collected meanwhile are taken in. `trainer.py` says what lies in the folder
`--out` and in `<out>.training/` beside it.
"""

from dataclasses import replace

from rich.console import Console

from specvla_ros.devices import quick_dtype
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.training.optimizer import Optimizer
from specvla_ros.training.process_group import ALONE, joined, ProcessGroup
from specvla_ros.training.saved_state import state_folder, StateFolder
from specvla_ros.training.sharded_optimizer import ShardedOptimizer
from specvla_ros.training.target_arguments import (
    check_arguments,
    settings_of,
    TrainTargetArgs,
)
from specvla_ros.training.target_recipe import SAVED, TargetRecipe
from specvla_ros.training.trainer import Trainer
from specvla_ros.training.training_progress import TrainingProgress

__all__ = ['TrainTargetArgs', 'make_trainer', 'run']


def run(args: TrainTargetArgs) -> int:
    """
    Train, measure and save until the end; returns an exit code.

    :raises SpecVLAError: no data, settings that can't be, or an unfinished training in the way
    """
    if args.init is not None:
        args = replace(args, init=checkpoint_folder(args.init))
    with joined(args.device) as group:
        args = replace(args, device=group.device)
        if args.dtype == 'auto':
            args = replace(args, dtype=quick_dtype(args.device))
        return _train(args, group)


def _train(args: TrainTargetArgs, group: ProcessGroup) -> int:
    check_arguments(args, group)
    with _state_folder(args).held(group.leads):
        trainer = make_trainer(args, group)
        with trainer.progress as progress:
            if trainer.recipe.measured:
                progress.say(f'{args.init} has no statistics of {args.suite}: '
                             'measured on these episodes')
            if trainer.recipe.heads_of:
                progress.say(f'the state heads are those of {trainer.recipe.heads_of}')
            trainer.run()
            progress.say(f'checkpoint in {args.out}')
    return 0


def make_trainer(args: TrainTargetArgs, group: ProcessGroup = ALONE) -> Trainer:
    """Read data, checkpoint and state: all that a training begins, or goes on, with."""
    folder = _state_folder(args)
    # Of a sharded training each process keeps its part alone.
    saved = folder.load(args.resume, 'cpu' if args.shard else args.device, SAVED)
    if saved:
        folder.check_same(settings_of(args), saved)  # before data are read that are not its own
    progress = TrainingProgress('train target', Console(quiet=not group.leads), args.chunk)
    recipe = TargetRecipe(args, saved and saved.recipe, progress.loading)
    return Trainer(recipe, args, folder, progress, saved, group,
                   ShardedOptimizer if args.shard else Optimizer)


def _state_folder(args: TrainTargetArgs) -> StateFolder:
    return StateFolder(state_folder(args.out), '--out')

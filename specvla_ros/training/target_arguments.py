"""What `specvla train target` is told, and which of it can't be."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from specvla_ros.devices import resolve_device
from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.config import MOST_STEPS
from specvla_ros.training.lora import check_lora, MOST_RANK
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.process_group import ProcessGroup
from specvla_ros.training.schedule import check_schedule
from specvla_ros.training.shape import TargetShape
from specvla_ros.training.target_batches import Augmentation
from specvla_ros.training.target_check import check_place, initial_key
from specvla_ros.unused_options import refuse_unused

Help = tyro.conf.arg
_MOST_INSTRUCTIONS = 64  # more than any scene has tasks


@dataclass(frozen=True, slots=True)
class TrainTargetArgs:
    """Train the target on collected episodes; ends after `--minutes`, or else `--epochs`."""

    out: Annotated[Path, Help(help='checkpoint folder to write')] = Path('runs/target')
    suite: Annotated[str, Help(help='suite the episodes are of')] = 'libero_object'
    tasks: Annotated[tuple[int, ...], Help(help='task numbers; none = all')] = ()
    data: Annotated[Path | None, Help(help='data folder; default in the cache')] = None
    unnorm_key: Annotated[str | None, Help(help='name of the statistics; default: suite')] = None
    chunk: Annotated[int, Help(
        help='control steps of an action; above 1 the data must be collected with --chunk')] = 1
    execute_steps: Annotated[int | None, Help(
        help='of these, how many to recommend to execute; default: half of them')] = None
    minutes: Annotated[float, Help(help='wall-clock time to train for; 0 = count epochs')] = 0.0
    epochs: Annotated[float, Help(help='passes over the frames, where --minutes is 0')] = 10.0
    batch: Annotated[int, Help(help='frames a step and process, over all lanes')] = 64
    lanes: Annotated[int, Help(help='threads, each on a core of its own')] = 2
    dtype: Annotated[str, Help(
        help='bfloat16 or float32: what the lanes compute in; auto = bfloat16 where the device '
             'has instructions for it')] = 'auto'
    store: Annotated[str, Help(
        help='bfloat16 or float32: what the weights are written in; half the size in bfloat16')
        ] = 'float32'
    device: Annotated[str, Help(help='cpu or cuda')] = 'cpu'
    seed: Annotated[int, Help(help='of weights, order and augmentation')] = 0
    resume: Annotated[bool, Help(help='go on with the interrupted training of --out')] = False
    init: Annotated[Path | None, Help(
        help='checkpoint to start from: a folder, or the name of an embedded one')] = None
    new_words: Annotated[bool, Help(
        help='build the tokenizer of --init anew from the instructions of this suite: those of '
             'another one would go in byte by byte. Only for small targets made here')] = False
    lora: Annotated[int, Help(
        help='rank of adapters on the Llama of --init, trained alone; 0 = train all weights')] = 0
    shard: Annotated[bool, Help(
        help='divide the weights among the processes that torchrun started (FSDP)')] = False
    freeze_vision: Annotated[bool, Help(help='leave the vision towers as --init has them')] = False
    vision_only: Annotated[bool, Help(
        help='train the vision towers alone, on the privileged state; go on with --init')] = False
    failed_steps: Annotated[int, Help(
        help='take the frames of failed episodes before this step as well; 0 = none of them')] = 0
    holdout: Annotated[float, Help(help='share of episodes kept for measuring')] = 0.03
    rescan: Annotated[float, Help(help='minutes between looks for new episodes')] = 5.0
    evaluate: Annotated[float, Help(help='minutes between measurements and saved states')] = 3.0
    eval_frames: Annotated[int, Help(help='held-out frames a measurement takes')] = 512
    instructions_per_frame: Annotated[int, Help(
        help='instructions that a still frame is shown with at once, where it has labels for '
             'several: `specvla collect --stills` makes them where tasks share a scene')] = 4
    text_tokens: Annotated[int, Help(
        help='ids of the tokenizer below the action tokens; --init has its own')] = 384
    sigma_start: Annotated[float, Help(help='width of the smoothed labels at first, bins')] = 6.0
    sigma_end: Annotated[float, Help(help='width at last, of a translation, bins')] = 4.0
    sigma_rotation: Annotated[float, Help(help='width at last, of a rotation, bins')] = 1.0
    state_weight: Annotated[float, Help(help='weight of the privileged-state loss')] = 0.3
    shape: TargetShape = field(default_factory=TargetShape)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)


def check_arguments(args: TrainTargetArgs, group: ProcessGroup) -> None:
    """Refuse settings that can't be."""
    check_schedule(args)
    if args.shard and group.size == 1:
        raise SpecVLAError('--shard divides the weights among several processes and there is one: '
                           'start the training with torchrun, or leave it out')
    if args.shard and args.lanes > 1:
        raise SpecVLAError(f'--shard with --lanes {args.lanes}: give --lanes 1, and as many '
                           'processes as lanes are wanted')
    resolve_device(args.device)
    check_place('--out', args.out)
    if args.init is not None:
        if not args.resume:  # older ones may have begun with both
            _refuse_shape(args)
        initial_key(args.init, args.suite, args.unnorm_key, args.device)
    if not 1 <= args.instructions_per_frame <= _MOST_INSTRUCTIONS:
        raise SpecVLAError(f'--instructions-per-frame {args.instructions_per_frame}: give 1 to '
                           f'{_MOST_INSTRUCTIONS}')
    if args.failed_steps < 0:
        raise SpecVLAError(f'--failed-steps {args.failed_steps}: give a number of steps, or 0 for '
                           'no frames of failed episodes')
    if not 1 <= args.chunk <= MOST_STEPS:
        raise SpecVLAError(f'--chunk {args.chunk}: give 1 to {MOST_STEPS} control steps')
    if args.execute_steps is not None and not 1 <= args.execute_steps <= args.chunk:
        raise SpecVLAError(f'--execute-steps {args.execute_steps}: give 1 to {args.chunk}, the '
                           'steps of an action (--chunk)')
    if args.new_words and args.init is None:
        raise SpecVLAError('--new-words is about the tokenizer of --init; without one a tokenizer '
                           'is built anyway')
    if args.new_words and (args.lora or args.vision_only):
        raise SpecVLAError('--new-words begins with random embeddings, and neither --lora nor '
                           '--vision-only trains them; leave one of the two out')
    if not 0 <= args.lora <= MOST_RANK:
        raise SpecVLAError(f'--lora {args.lora}: give a rank of 1 to {MOST_RANK}, or 0 to train '
                           'all weights')
    if args.lora:
        check_lora()
        if args.init is None or args.vision_only:
            raise SpecVLAError('--lora adapts the Llama of a checkpoint: give --init, and leave '
                               'out --vision-only')
    if args.freeze_vision and args.init is None:
        raise SpecVLAError('freeze_vision needs --init: random vision towers learn nothing')


def _refuse_shape(args: TrainTargetArgs) -> None:
    reason = 'dimensions and tokenizer are those of --init'
    refuse_unused(args, ('text_tokens',), reason)
    refuse_unused(args.shape, (field.name for field in fields(args.shape)), reason, 'shape.')


def settings_of(args: TrainTargetArgs) -> dict[str, Any]:
    """What a resumed training must have in common with the interrupted one."""
    names = ('suite', 'tasks', 'unnorm_key', 'chunk', 'execute_steps', 'freeze_vision',
             'vision_only', 'holdout', 'text_tokens')
    return {name: getattr(args, name) for name in names} | {
        'shape': asdict(args.shape), 'init': args.init and str(args.init)} | (
            {name: getattr(args, name) for name in ('lora', 'new_words', 'failed_steps')
             if getattr(args, name)}
    )  # no key where it is off: states saved before there was such an option have none

"""The machine, the versions and the weights: a figure depends on them besides the code."""

from contextlib import suppress
from importlib import metadata
import os
from pathlib import Path
import platform
from typing import Any

from specvla_ros.benchmark import image_preparation
from specvla_ros.drafter_folders import all_weights, beside
from specvla_ros.embedded import checkpoint_folder, embedded_names
from specvla_ros.hashing import folder_sha256

PACKAGES = ('torch', 'transformers', 'torchao', 'safetensors', 'numpy', 'mujoco', 'robosuite',
            'hf-libero', 'opencv-python-headless', 'simplejpeg', 'rosbags', 'ros-jazzy-rclpy')


def cpu_name() -> str:
    """Return the processor's name as the kernel gives it."""
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass  # not Linux: the platform's own word has to do
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Return the machine's memory, GiB."""
    return round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, GPUs and operating system."""
    try:
        import torch
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    except ImportError:  # `specvla doctor` must be able to say so
        gpus = []
    return {'cpu': cpu_name(), 'cores': available_cores(), 'memory_gib': memory_gib(),
            'gpus': gpus, 'os': platform.platform(), 'machine': platform.machine()}


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that figures depend on."""
    found = {'python': platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # optional, or installed by another means than pip (ROS from apt)
    return found


def checkpoint_folders(
    checkpoint: Path | None, drafter: Path | None
) -> tuple[Path, dict[str, Path]]:
    """
    Return the folder of the target, and those of its drafters' weights by their names.

    :raises FileNotFoundError: a folder that was named, or the embedded checkpoint, isn't there
    """
    target = checkpoint_folder(checkpoint)
    if not target.is_dir():
        raise FileNotFoundError(
            f'no checkpoint folder {target}; give --checkpoint the folder that holds config.json '
            f'and the weights, or the name of an embedded one: {", ".join(embedded_names())}')
    if drafter is not None and not Path(drafter).is_dir():
        raise FileNotFoundError(f'no drafter folder {drafter}; give --drafter the folder that '
                                'holds its config.json and weights')
    return target, all_weights(Path(drafter) if drafter is not None else beside(target))


def checkpoint_sha256(checkpoint: Path | None, drafter: Path | None) -> dict[str, Any]:
    """
    Return the hashes of the target and of its drafters' weights; EAGLE's is `drafter`.

    ``images``, by data set, says how frames become the target's pictures.
    """
    target, weights = checkpoint_folders(checkpoint, drafter)
    eagle = weights.pop('eagle', None)
    hashes: dict[str, Any] = {
        'target_sha256': folder_sha256(target),
        'drafter_sha256': folder_sha256(eagle) if eagle else None,
        **{f'{name}_sha256': folder_sha256(folder) for name, folder in weights.items()}}
    with suppress(ValueError):  # a folder that can't be used: loading it says why
        hashes['images'] = image_preparation.describe(target)
    return hashes

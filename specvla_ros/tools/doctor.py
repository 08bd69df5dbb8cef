"""
`specvla doctor`: say what works on this machine, and how to mend the rest.

Every check does the thing itself (renders a scene, sends a message, loads the weights) in a
process of its own, where a crash of a driver is a finding and not the end of the report.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
import fcntl
import functools
import importlib.util
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

from rich.console import Console

from specvla_ros import files
from specvla_ros.benchmark import image_preparation, machine, report
from specvla_ros.benchmark.episodes import video
from specvla_ros.libero import renderer
from specvla_ros.tools import probes
from specvla_ros.tools.finding import Finding, TIMEOUT_S, try_script

SUPPORTED_PYTHON = ((3, 10), (3, 12))
NEEDED_DISK_GIB = 1.0  # for runs: frames, videos
NEEDED_CACHE_GIB = 1.5  # for LIBERO's assets: 360 MB fetched, 622 MB unpacked
NEEDED_MEMORY_GIB = 6.0  # peak of the demo's processes
SHARED_MEMORY = Path('/dev/shm')
MUCH_SHARED_MEMORY = 0.25  # of it, in files of processes that are gone
SETUP = 'run `make setup`'
ROBOT_SETUP = ('use a venv with `pip install -r requirements/robot.txt`: numpy 1, for which apt '
               'builds OpenCV and cv_bridge')
STATES = {'ok': '[green]ok[/green]', 'missing': '[red]missing[/red]',
          'note': '[yellow]note[/yellow]'}
# Name, script and what to do where it fails.
SCRIPTS = (
    ('transformers', probes.TRANSFORMERS, SETUP),
    ('ROS 2 (rclpy)', probes.ROS, f'{SETUP}, or source a ROS 2 Jazzy installation and use a venv '
     'with --system-site-packages'),
    ('messages of this package', probes.MESSAGES, f'{SETUP}: it builds them with `pip install .`'),
    ('DDS between processes', probes.DDS, 'see whether a firewall blocks UDP on the loopback '
     'interface, or /dev/shm is full'),
    ('renderer', renderer.PROBE, '`apt-get install libosmesa6` renders without a display; with a '
     'GPU, MUJOCO_GL=egl'),
)


@dataclass(frozen=True, slots=True)
class DoctorArgs:
    """Say what works on this machine and what to do about what doesn't."""

    checkpoint: Path | None = None
    """Folder of an OpenVLA checkpoint, or the name of an embedded one. Default: libero_object."""
    drafter: Path | None = None
    """Folder of the drafters' weights. Default: `drafters` inside the checkpoint."""
    json: Path | None = None
    """Also write the findings here, for machines."""


def run(args: DoctorArgs) -> int:
    """
    Check everything, printing as it goes.

    :returns: 0 if the demo can run, else 1
    :raises ValueError: bad input, in one line
    """
    files.check_json_path(args.json)
    console = Console()
    findings = []
    for name, check in checks(args):
        with console.status(name):
            finding = check()
        findings.append(finding)
        console.print(f'{STATES[finding.state]:>24}  [bold]{finding.name}[/bold]')
        console.print(f'         {finding.detail}', markup=False, highlight=False, style='dim')
        if finding.todo:
            console.print(f'         → {finding.todo}', markup=False, highlight=False)
    missing = [finding.name for finding in findings if finding.state == 'missing']
    console.print(f'[red]missing for `specvla demo`: {", ".join(missing)}[/red]' if missing
                  else '[green]everything `specvla demo` needs is here[/green]')
    if args.json is not None:
        document = report.report(sys.argv, {}, _hashes(args), [])
        files.write_json(args.json, document | {
            'checks': [asdict(finding) for finding in findings], 'ready': not missing})
    return int(bool(missing))


def checks(args: DoctorArgs) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Yield each check with the name to show while it runs."""
    yield 'Python', check_python
    yield 'torch', check_torch
    yield 'OpenCV', check_opencv
    if importlib.util.find_spec('cv_bridge') is not None:
        yield 'cv_bridge', check_cv_bridge
    for name, script, todo in SCRIPTS:
        yield name, functools.partial(try_script, name, script, todo)
    yield 'quantisation', check_quantization
    yield 'assets', check_assets
    yield 'checkpoint', functools.partial(check_policy, args, 'checkpoint', 'ar')
    yield 'drafter', functools.partial(check_policy, args, 'drafter', 'strict')
    yield 'ffmpeg', check_ffmpeg
    yield 'disk', check_disk
    yield 'memory', check_memory
    yield 'shared memory', check_shared_memory


def check_python() -> Finding:
    """Whether this Python is one of those the package is tested with."""
    low, high = SUPPORTED_PYTHON
    found = f'{sys.version.split()[0]} in {sys.prefix}'
    if low <= sys.version_info[:2] <= high:
        return Finding('Python', 'ok', found)
    span = f'{low[0]}.{low[1]} to {high[0]}.{high[1]}'
    return Finding('Python', 'missing', found, f'make the environment with Python {span}')


def check_torch() -> Finding:
    """Whether torch computes, and on what."""
    finding = try_script('torch', probes.TORCH, SETUP)
    if finding.state != 'ok':
        return finding
    version, _, gpus = finding.detail.partition(' | ')
    if gpus.strip():
        return Finding('torch', 'ok', f'{version} on {gpus.strip()}')
    return Finding('torch', 'ok', f'{version} on {machine.cpu_name()}, '
                   f'{machine.available_cores()} cores; no GPU, the embedded checkpoint does not '
                   'need one (a 7B does)')


def check_opencv() -> Finding:
    """Whether OpenCV computes with the numpy that is here, and is the only one."""
    finding = try_script('OpenCV', probes.OPENCV, f'beside ROS from apt {ROBOT_SETUP}; elsewhere '
                         f'{SETUP}')
    if finding.state != 'ok':
        return finding
    version, copies, wheels = finding.detail.split(' | ')
    used, *others = copies.split(', ')
    detail = f'{version}; {used}'
    if others:
        return Finding('OpenCV', 'note', f'{detail} hides {", ".join(others)}', 'what was built '
                       f'for one of them can crash with the other: keep one; {ROBOT_SETUP}')
    if ', ' in wheels:
        return Finding('OpenCV', 'note', f'{detail} is mixed of {wheels}', 'uninstall all of them '
                       'with pip, then install the one you need again')
    return Finding('OpenCV', 'ok', detail)


def check_cv_bridge() -> Finding:
    """Whether cv_bridge works with this numpy: not needed here, but by other nodes."""
    finding = try_script('cv_bridge', probes.CV_BRIDGE, 'this package does without it, but '
                         f'another node in this Python would crash: {ROBOT_SETUP}')
    return replace(finding, state='ok' if finding.state == 'ok' else 'note')


def check_quantization() -> Finding:
    """Which quantisations compute here, on each device; the demo needs none."""
    finding = try_script('quantisation', probes.QUANTIZATION,
                         "`pip install 'torchao>=0.18,<0.19'` (the extra quant) lets a 7B fit on "
                         'a small GPU')
    return replace(finding, state='ok' if finding.state == 'ok' else 'note')


def check_assets() -> Finding:
    """Whether LIBERO and its assets are there and are those that are pinned."""
    from specvla_ros.libero import assets, suites

    try:
        suites.package_folder()
        return Finding('LIBERO and its assets', 'ok', f'{assets.verify_assets()}, sha256 right')
    except (FileNotFoundError, assets.AssetError) as error:
        what, _, todo = str(error).partition(': ')
        return Finding('LIBERO and its assets', 'missing', what, todo or SETUP)


def check_policy(args: DoctorArgs, name: str, decoder: str) -> Finding:
    """Whether the checkpoint (with its drafter, under `strict`) loads and acts."""
    try:
        target, drafters = machine.checkpoint_folders(args.checkpoint, args.drafter)
        if decoder != 'ar' and 'eagle' not in drafters:
            return Finding(name, 'missing', f'there is no folder {target / "drafters/eagle"}',
                           'give --drafter, or train one with `specvla train eagle`')
        folder = target if decoder == 'ar' else drafters['eagle']
        sha256 = machine.folder_sha256(folder)
    except FileNotFoundError as error:
        what, _, todo = str(error).partition('; ')
        return Finding(name, 'missing', what, todo)
    except ImportError as error:  # torch or transformers, which have findings of their own
        return Finding(name, 'missing', str(error).splitlines()[0], SETUP)
    todo = 'give --checkpoint or --drafter a whole folder, or restore the embedded one'
    finding = try_script(name, probes.POLICY, todo, str(args.checkpoint or ''),
                         str(args.drafter or ''), decoder)
    images = _images(target) if decoder == 'ar' and finding.state == 'ok' else ''
    return Finding(name, finding.state,
                   f'{folder}, sha256 {sha256[:12]}: {finding.detail}{images}', finding.todo)


def _images(target: Path) -> str:
    """How frames become pictures; a data set of its own has one of its own."""
    described = image_preparation.describe(target)
    return ''.join(f'; images of {key}: {words}' for key, words in described.items())


def check_ffmpeg() -> Finding:
    """Whether there is an ffmpeg that encodes H.264."""
    try:
        path = video.ffmpeg()
        listing = subprocess.run([path, '-hide_banner', '-encoders'], capture_output=True,
                                 text=True, timeout=TIMEOUT_S).stdout
    except (ValueError, OSError, subprocess.TimeoutExpired, ImportError) as error:
        return Finding('ffmpeg', 'missing', str(error), SETUP)
    if 'libx264' not in listing:
        return Finding('ffmpeg', 'missing', f'{path} has no libx264',
                       'unset IMAGEIO_FFMPEG_EXE to use the one of imageio-ffmpeg')
    return Finding('ffmpeg', 'ok', path)


def check_disk() -> Finding:
    """Whether there is room for what the commands leave, and for the assets if they lack."""
    from specvla_ros.libero import assets

    here = shutil.disk_usage('.').free / 2**30
    cache = assets.cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    there = shutil.disk_usage(existing).free / 2**30
    detail = f'{here:.1f} GiB free here, {there:.1f} GiB for the cache in {cache}'
    if here < NEEDED_DISK_GIB:
        return Finding('disk', 'missing', detail, f'make {NEEDED_DISK_GIB:g} GiB of room here')
    if there < NEEDED_CACHE_GIB and not assets.assets_folder().exists():
        return Finding('disk', 'missing', detail, f'make {NEEDED_CACHE_GIB:g} GiB of room for the '
                       'assets, or set SPECVLA_CACHE to another disk')
    return Finding('disk', 'ok', detail)


def check_memory() -> Finding:
    """Whether there is as much memory as the demo takes at its peak."""
    found = machine.memory_gib()
    if found < NEEDED_MEMORY_GIB:
        return Finding('memory', 'note', f'{found} GiB', f'the demo takes up to '
                       f'{NEEDED_MEMORY_GIB:g} GiB: close other programs')
    return Finding('memory', 'ok', f'{found} GiB')


def check_shared_memory(folder: Path = SHARED_MEMORY) -> Finding:
    """Whether shared memory is full of what killed nodes left, so that DDS may find none."""
    if not folder.is_dir():
        return Finding('shared memory', 'note', f'there is no {folder}', 'DDS uses UDP instead')
    left = [segment for lock in folder.glob('fastrtps_*_el') if (
        segment := lock.with_name(lock.name.removesuffix('_el'))).exists() and _is_free(lock)]
    size, whole = sum(segment.stat().st_size for segment in left), shutil.disk_usage(folder).total
    detail = (f'{size / 2**20:.0f} of {whole / 2**20:.0f} MiB are taken by {len(left)} files that '
              'killed nodes left')
    if size > MUCH_SHARED_MEMORY * whole:
        return Finding('shared memory', 'note', detail, f'`rm {folder}/*fastrtps*` while no node '
                       'runs: when it is full, images go the slower way over UDP')
    return Finding('shared memory', 'ok', detail)


def _is_free(lock: Path) -> bool:
    """Whether a Fast DDS lock file is free: its owner holds it as long as it lives."""
    try:
        with open(lock, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, another user's, or gone by now
        return False
    return True


def _hashes(args: DoctorArgs) -> dict[str, Any]:
    try:
        return machine.checkpoint_sha256(args.checkpoint, args.drafter)
    except (FileNotFoundError, ImportError):
        return {'target_sha256': None, 'drafter_sha256': None}

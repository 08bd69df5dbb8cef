"""A run's folder: what is finished is kept there, and the same command goes on from there."""

from collections.abc import Iterator
import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from specvla_ros import files
from specvla_ros.benchmark.records import RecordLog
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.typed_files import read_json
from specvla_ros.writable import check_writable

L = TypeVar('L', bound=RecordLog)
EPISODES = 'episodes.jsonl'  # what is finished, a line each
_NAMED = 3  # differences that a message names
_ABSENT = object()


def default_folder(command: str, identity: dict[str, Any]) -> Path:
    """Return runs/COMMAND-<hash of the identity>: the same command finds its run again."""
    text = json.dumps(identity, sort_keys=True)
    return Path('runs') / f'{command}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'


@contextlib.contextmanager
def open_run(folder: Path, identity: dict[str, Any], kind: type[L]) -> Iterator[L]:
    """
    Make the run's folder, or take up the one that is there, and keep other processes out of it.

    A run without a finished episode leaves nothing that hinders the next one. A run that was
    refused leaves nothing at all.

    :param identity: what must be the same for the run to be continued, by parts
    :param kind: of the log of what is finished
    :raises SpecVLAError: the folder holds a run of another configuration, or another process
        is at it
    """
    if folder.exists() and not folder.is_dir():
        raise SpecVLAError(f'--out {folder} is a file; give a folder')
    check_writable('--out', folder)
    path, log = folder / 'run.json', None
    with files.alone_in(folder):
        try:
            log = _log_of(folder, identity, kind)
            files.write_json(path, identity)
            yield log
        except (ValueError, OSError):
            if log is not None and not log.episodes:
                _clear(folder)
            raise
        finally:
            if log is not None and not log.episodes:
                path.unlink(missing_ok=True)


def _log_of(folder: Path, identity: dict[str, Any], kind: type[L]) -> L:
    """Return the episodes a folder holds: of this very run, or none at all."""
    path, episodes = folder / 'run.json', folder / EPISODES
    if not path.exists() and any(found for found in folder.iterdir()
                                 if not _is_ours(found.name)):
        raise SpecVLAError(f'--out {folder} is not empty and holds no evaluation or '
                           'calibration; give a new folder')
    log = kind(episodes)
    if not log.episodes:  # left by a start that failed: an empty log does no harm
        return log
    try:
        differing = differences(read_json(path), identity)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SpecVLAError(f"{path} doesn't say which run the {len(log.episodes)} episodes "
                           f'beside it are of ({error}); give --out another folder') from error
    if differing:
        raise SpecVLAError(f'{folder} holds a run with another {differing}; '
                           'give --out another folder, or leave it out')
    return log


def _is_ours(name: str) -> bool:
    """Whether a start that failed leaves a file of that name."""
    return name == 'run.json' or name.startswith('worker-') and name.endswith('.log')


def _clear(folder: Path) -> None:
    for found in folder.iterdir():
        if _is_ours(found.name):
            found.unlink()


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """
    Name what differs of two identities, e.g. `config.device ('cpu', now 'cuda')`; '' if nothing.

    Of nested ones the innermost parts are named, the first three and how many more there are.
    """
    named = list(_differing(found, json.loads(json.dumps(wanted))))
    more = f' and {len(named) - _NAMED} more' if len(named) > _NAMED else ''
    return ', '.join(named[:_NAMED]) + more


def _differing(before: Any, now: Any, name: str = '') -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now} if name else now:  # a run may say more of itself
            yield from _differing(before.get(key, _ABSENT), now.get(key, _ABSENT),
                                  f'{name}.{key}' if name else key)
    elif before is _ABSENT:
        yield f'{name} (now there as well)'
    elif now is _ABSENT:
        yield f'{name} (now missing)'
    elif before != now:
        yield f'{name} ({shown(before)}, now {shown(now)})'

"""Where the files of ``config/`` stand: in the source root, or in the package's share folder."""

from __future__ import annotations

from pathlib import Path
import sys

PACKAGE = 'specvla_ros'


def config_folder() -> Path:
    """
    Folder of the package's configuration files: the source root's, else the installed one.

    Raises FileNotFoundError naming the places looked in.
    """
    shares = [_ament_share(), Path(sys.prefix) / 'share' / PACKAGE]
    roots = [Path(__file__).resolve().parents[1], *(share for share in shares if share)]
    for root in roots:
        if (root / 'config' / 'decoders').is_dir():
            return root / 'config'
    raise FileNotFoundError(
        'no configuration folder; looked in ' + ', '.join(str(root / 'config') for root in roots)
    )


def _ament_share() -> Path | None:
    """Share folder of the package in the ROS workspace, if there is one."""
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(PACKAGE))
    except (ImportError, LookupError, OSError):  # no ROS, not in it, or no workspace sourced
        return None

#!/usr/bin/env bash
# Make .venv and everything in it, and fetch the LIBERO assets; skip what is done already.
#
# Each stage leaves a stamp named after the hash of what it was made from, so that a change of the
# Python files alone rebuilds nothing: .venv takes them from this folder (setup.py says how).
# PYTHON=python3.12 chooses the interpreter; pip's own settings (PIP_*) hold. A .venv of another
# Python, from another place or one that doesn't run is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 DEBIAN_FRONTEND=noninteractive
venv=.venv

say() { printf '[setup] %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

# Two at once, as of `make demo` beside `make test`, would take each other's files away.
alone() {
    command -v flock >/dev/null || return 0
    exec 9<.
    flock -n 9 || { say 'another setup is at work in this folder: waiting for it'; flock 9; }
}

# Install Debian packages when root; else stop with the line to type.
need_packages() {
    local line="apt-get install -y --no-install-recommends $*" log
    command -v apt-get >/dev/null || die "missing on this system (named as in Debian): $*"
    [ "$(id -u)" = 0 ] || die "missing system packages, type: sudo $line"
    say "system packages: $*"
    log=$(mktemp)
    if ! { apt-get -qq update && $line; } >"$log" 2>&1; then
        tail -5 "$log" >&2
        die "could not install system packages, try: $line"
    fi
    rm -f "$log"
}

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null
}

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10, 3.11 or 3.12"
        echo "$PYTHON"
        return
    fi
    for name in python3 python3.12 python3.11 python3.10; do
        if supported "$name"; then
            echo "$name"
            return
        fi
    done
    return 1
}

check_system() {
    local packages=() version
    find_python >/dev/null || need_packages python3 python3-venv python3-dev
    python=$(find_python) || die 'no Python 3.10, 3.11 or 3.12 found: name one with PYTHON=...'
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=("$version-venv")
    "$python" - <<'PY' || packages+=("$version-dev")
import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_paths()['include']) / 'Python.h').is_file())
PY
    command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null \
        || packages+=(build-essential)
    # MuJoCo's software renderer; another one may be chosen with MUJOCO_GL=egl
    if [ "${MUJOCO_GL:-osmesa}" = osmesa ]; then
        PATH=$PATH:/sbin:/usr/sbin "$python" -c '
import ctypes.util, sys; sys.exit(not ctypes.util.find_library("OSMesa"))' \
            || packages+=(libosmesa6)
    fi
    [ ${#packages[@]} = 0 ] || need_packages "${packages[@]}"
}

hash_of() { { printf '%s\n' "$PWD"; cat "$@"; } | sha256sum | cut -c1-16; }
stamped() { [ -e "$venv/.$1-$2" ]; }
unstamp() { rm -f "$venv/.$1"-*; }  # before the work: what is interrupted is done again
stamp() { touch "$venv/.$1-$2"; }

# Whether .venv runs, lies where it was made, and has the Python that was asked for. Of a moved one
# the commands in bin/ would start the old place's Python.
sound() {
    local minor='import sys; print("%d.%d" % sys.version_info[:2])' found
    found=$("$venv/bin/python" -c "import pip; $minor" 2>/dev/null) || return 1
    grep -qF "$(readlink -f "$venv")" "$venv/bin/activate" || return 1
    [ -z "${PYTHON:-}" ] || [ "$found" = "$("$PYTHON" -c "$minor" 2>/dev/null)" ]
}

pip_install() {
    local quiet=--quiet
    [ -t 2 ] && quiet=
    "$venv/bin/python" -m pip install $quiet --no-warn-script-location "$@" >&2
}

dependencies() {
    local key
    key=$(hash_of constraints.txt requirements/*.txt)
    sound && stamped dependencies "$key" && return
    check_system
    if ! sound; then
        say "$venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    unstamp dependencies
    say 'dependencies, minutes the first time (PyPI brings torch with CUDA, about 3 GB)'
    pip_install -c constraints.txt pip setuptools wheel
    pip_install -c constraints.txt -r requirements/base.txt -r requirements/libero.txt \
        -r requirements/quant.txt -r requirements/recordings.txt \
        -r requirements/ray.txt -r requirements/lora.txt -r requirements/dev.txt
    pip_install --no-deps -r requirements/libero-no-deps.txt
    stamp dependencies "$key"
}

package() {
    local key
    key=$(hash_of constraints.txt CMakeLists.txt package.xml pyproject.toml setup.py \
        action/*.action msg/*.msg)
    stamped package "$key" && return
    check_system
    unstamp package
    say 'messages (half a minute)'
    SPECVLA_DEVELOP=1 pip_install --no-deps --force-reinstall --build-constraint constraints.txt .
    stamp package "$key"
}

alone
dependencies
package
"$venv/bin/python" -m specvla_ros.libero.assets

"""What is written in several places says the same everywhere: versions, messages, dependencies."""
import ast
import os
from pathlib import Path
import re
import sys
import xml.etree.ElementTree as ElementTree

from packaging.requirements import Requirement
import pytest

from specvla_ros import __version__

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ['3.10', '3.11', '3.12']

# Python's import names, where they differ from the distribution (pip) or rosdep key (package.xml).
DISTRIBUTION = {
    'PIL': 'pillow', 'cv2': 'opencv-python-headless', 'yaml': 'pyyaml', 'faiss': 'faiss-cpu',
    'libero': 'hf-libero', 'ament_index_python': 'ros-jazzy-rclpy', 'rclpy': 'ros-jazzy-rclpy',
    'action_msgs': 'ros-jazzy-rclpy', 'rcl_interfaces': 'ros-jazzy-rclpy',
    'builtin_interfaces': 'ros-jazzy-std-msgs',
    'std_msgs': 'ros-jazzy-std-msgs', 'sensor_msgs': 'ros-jazzy-sensor-msgs',
    'geometry_msgs': 'ros-jazzy-geometry-msgs', 'diagnostic_msgs': 'ros-diagnostic-msgs',
    'std_srvs': 'ros-std-srvs', 'imageio_ffmpeg': 'imageio-ffmpeg', 'rosbags': 'rosbags',
}
ROSDEP = {
    'PIL': 'python3-pil', 'cv2': 'python3-opencv', 'yaml': 'python3-yaml',
    'numpy': 'python3-numpy', 'matplotlib': 'python3-matplotlib', 'rich': 'python3-rich',
}
# Stand-ins: on wheels these are not to be had, on a robot they come with ROS.
ONLY_WITH_APT = {'control_msgs', 'launch', 'launch_ros'}
# Too big to come along for what it does; without it the node says what to install. Triton comes
# with torch for CUDA; without it torch's own operations are taken.
BY_HAND = {'rerun', 'triton'}
# No apt package of a fitting release: package.xml says so, the README shows the venv.
ONLY_WITH_PIP = {'torch', 'transformers', 'tokenizers', 'safetensors', 'simplejpeg', 'tyro',
                 'imageio_ffmpeg', 'rosbags', 'apsw', 'scipy', 'huggingface_hub', 'libero',
                 'robosuite', 'mujoco', 'bddl', 'torchao', 'faiss', 'av', 'h5py', 'pyarrow',
                 'ray', 'peft'}


def requirements(*names):
    """Return the requirements of the files named, as {distribution: Requirement}."""
    found = {}
    for name in names:
        for line in (ROOT / name).read_text().splitlines():
            if line := line.split('#')[0].strip():
                requirement = Requirement(line)
                found.setdefault(normalised(requirement.name), []).append(requirement)
    return found


def normalised(name):
    return re.sub(r'[-_.]+', '-', name).lower()


def manifest():
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def third_party():
    """Return {import name: one file that has it} for all code that is installed."""
    found = {}
    for path in [*(ROOT / 'specvla_ros').rglob('*.py'), *(ROOT / 'launch').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            for name in names:
                found.setdefault(name.partition('.')[0], path.relative_to(ROOT))
    return {name: path for name, path in found.items()
            if name not in sys.stdlib_module_names and name != 'specvla_ros'}


def test_one_version_everywhere():
    assert manifest().findtext('version') == __version__
    changelog = (ROOT / 'CHANGELOG.rst').read_text()
    assert re.search(rf'^{re.escape(__version__)} \(', changelog, re.MULTILINE)


INTERFACES = sorted([*ROOT.glob('action/*.action'), *ROOT.glob('msg/*.msg')])


def test_cmake_builds_every_interface():
    listed = re.findall(r'"(\w+/\w+\.(?:action|msg))"', (ROOT / 'CMakeLists.txt').read_text())
    assert listed == [str(path.relative_to(ROOT)) for path in INTERFACES]


def test_colcon_test_names_files_that_exist_and_ends_in_time():
    text = (ROOT / 'CMakeLists.txt').read_text()
    block = text[text.index('foreach(_path ${_tests}'):text.index('endforeach', text.index(
        'foreach(_path ${_tests}'))]
    paths = re.findall(r'^ +(test/[\w./]+)\)?$', block, re.MULTILINE)
    assert len(paths) > 5 and all((ROOT / path).exists() for path in paths)
    assert 'ament_add_pytest_test(${_name} ${_path} TIMEOUT' in block
    # the whole suite in one test would be killed half-way
    assert not re.search(r'ament_add_pytest_test\(\w+ test[ )]', text)


def test_interfaces_are_built_as_they_are_written():
    import specvla_ros.action
    import specvla_ros.msg
    for path in INTERFACES:
        if path.suffix == '.msg':
            parts = [getattr(specvla_ros.msg, path.stem)]
        else:
            action = getattr(specvla_ros.action, path.stem)
            parts = [action.Goal, action.Result, action.Feedback]
        texts = re.split(r'^---$', path.read_text(), flags=re.MULTILINE)
        for built, text in zip(parts, texts, strict=True):
            fields = re.findall(r'^[\w/]+(?:\[\])? (\w+)$', text, re.MULTILINE)
            assert list(built.get_fields_and_field_types()) == fields


@pytest.mark.parametrize('path', INTERFACES, ids=lambda path: path.stem)
def test_every_field_is_explained_and_every_constant_in_capitals(path):
    explained = False
    for line in path.read_text().splitlines():
        if line.startswith('#'):
            explained = True
        elif line in ('', '---'):
            explained = False
        else:
            assert explained or '=' in line, f'{path.name}: {line!r} has no comment'
            if '=' in line:
                assert re.fullmatch(r'[A-Z_]+=.+', line.split(maxsplit=1)[1])


def test_every_import_is_declared_for_pip():
    declared = requirements('requirements/base.txt', 'requirements/libero.txt',
                            'requirements/libero-no-deps.txt', 'requirements/quant.txt',
                            'requirements/recordings.txt', 'requirements/ray.txt',
                            'requirements/lora.txt')
    for name, path in third_party().items():
        if name not in ONLY_WITH_APT | BY_HAND:
            assert normalised(DISTRIBUTION.get(name, name)) in declared, \
                f'{path} imports {name}: add it to requirements/ and constraints.txt'


def test_every_import_is_declared_for_ros():
    declared = {tag.text for tag in manifest() if tag.tag in ('depend', 'exec_depend')}
    for name, path in third_party().items():
        if name not in ONLY_WITH_PIP | BY_HAND:
            assert ROSDEP.get(name, name) in declared, f'{path} imports {name}: see package.xml'


@pytest.mark.parametrize('python', PYTHONS)
def test_every_requirement_has_one_exact_version(python):
    pins = requirements('constraints.txt')
    wanted = requirements(*(f'requirements/{name}.txt' for name in ('base', 'libero', 'quant',
                                                                    'recordings', 'dev', 'build')))
    environment = {'python_version': python, 'python_full_version': f'{python}.9'}
    for name, alternatives in wanted.items():
        valid = [pin for pin in pins[name]
                 if pin.marker is None or pin.marker.evaluate(environment)]
        assert len(valid) == 1, f'{name} on Python {python}: {valid}'
        (specifier,) = valid[0].specifier
        assert specifier.operator == '=='
        assert all(specifier.version in want.specifier for want in alternatives)


# The simulator, quantised weights, recordings of others, Ray, LoRA: not for the policy on a robot.
# scipy comes with the simulator.
NOT_ON_A_ROBOT = {'scipy', 'libero', 'robosuite', 'mujoco', 'bddl', 'torchao', 'av', 'h5py',
                  'pyarrow', 'ray', 'peft'}


@pytest.mark.parametrize('python', ['3.11', '3.12'])
def test_a_robot_gets_the_same_versions_but_numpy_1_and_no_opencv(python):
    """Beside numpy 2, apt's OpenCV and cv_bridge do not load, or crash."""
    robot, pins = requirements('requirements/robot.txt'), requirements('constraints.txt')
    wanted = {normalised(DISTRIBUTION.get(name, name)) for name in ONLY_WITH_PIP - NOT_ON_A_ROBOT}
    assert wanted <= set(robot)
    assert not [name for name in robot if 'opencv' in name]
    environment = {'python_version': python, 'python_full_version': f'{python}.9'}
    for name, (requirement,) in robot.items():
        (specifier,) = requirement.specifier
        assert specifier.operator == '=='
        if name == 'numpy':
            assert specifier.version.startswith('1.')
            continue
        (pin,) = (pin for pin in pins[name]
                  if pin.marker is None or pin.marker.evaluate(environment))
        assert requirement.specifier == pin.specifier


@pytest.mark.parametrize('name', ['base', 'libero', 'quant', 'recordings', 'ray', 'lora', 'dev',
                                  'build'])
def test_every_requirement_says_its_lowest_version(name):
    """It is one that was run: CONTRIBUTING.md says how."""
    for alternatives in requirements(f'requirements/{name}.txt').values():
        for want in alternatives:
            assert {'>=', '=='} & {specifier.operator for specifier in want.specifier}, want


def test_what_runs_is_what_is_pinned():
    from importlib.metadata import version
    pins = requirements('constraints.txt')
    for name in requirements('requirements/base.txt', 'requirements/libero.txt',
                             'requirements/quant.txt'):
        (specifier,) = next(pin.specifier for pin in pins[name]
                            if pin.marker is None or pin.marker.evaluate())
        # a CPU or CUDA build of the same release has a local part: 2.13.0+cpu
        assert version(name).partition('+')[0] == specifier.version


def test_both_lists_of_build_requirements_agree():
    text = (ROOT / 'pyproject.toml').read_text()
    quoted = re.findall(
        r"'([^']+)'", text[text.index('requires = ['):text.index('build-backend')])
    listed = {normalised(want.name): [want] for want in map(Requirement, quoted)}
    wanted = requirements('requirements/build.txt')
    assert listed | {'pip': wanted['pip']} == wanted


SCRIPTS = sorted(path for path in (ROOT / 'scripts').rglob('*')
                 if path.is_file() and path.suffix in ('', '.sh'))


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run_on_a_robot(path):
    assert os.access(path, os.X_OK)
    first = path.read_text().splitlines()[0]
    # not the build machine's interpreter: torch may sit in a venv beside an apt install of ROS
    assert first in ('#!/usr/bin/env python3', '#!/usr/bin/env bash')


def test_python_files_belong_to_a_package():
    for path in (ROOT / 'specvla_ros').rglob('*.py'):
        assert (path.parent / '__init__.py').is_file(), f'{path.parent} has no __init__.py'

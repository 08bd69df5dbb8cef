"""
The arrows between the rooms: who may import whom.

`nodes, benchmark, training, cli -> policy -> decoding -> openvla`; `libero` stands beside `policy`
and neither knows the other. Read from the syntax tree, so that imports inside functions count too.
"""
import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'specvla_ros'

LEAVES = {'errors', 'typed_files', 'configuration', 'hashing', 'rotation', 'safety', 'camera',
          'pictures', 'writable', 'steps', 'situation', 'registry', 'drafter_folders',
          'config_folder', 'data_sets', 'policy_source', 'embedded', 'files', 'progress',
          'calibrated', 'execution', 'safety_settings', 'components', 'drafter_verdict',
          'unused_options', 'natural_order'}
ENGINE = LEAVES | {'action_space', 'actions', 'bin_limits', 'safety_guard', 'devices', 'auto',
                   'loaded_checkpoint', 'policy', 'policy_check', 'decoding', 'graphs', 'openvla'}
MAY_IMPORT = {
    'openvla': set(),
    'action_space': {'errors', 'openvla'},
    'graphs': set(),
    'device_clock': set(),
    'decoding': LEAVES | {'action_space', 'device_clock', 'graphs', 'openvla'},
    'bin_limits': {'safety'},
    'safety_guard': {'action_space', 'bin_limits', 'safety', 'decoding'},
    'auto': LEAVES | {'decoding', 'graphs'},
    'actions': LEAVES | {'bin_limits', 'decoding', 'openvla'},
    'devices': {'errors'},
    'loaded_checkpoint': LEAVES | {'action_space', 'actions', 'auto', 'bin_limits',
                                   'decoding', 'openvla'},
    'policy': LEAVES | {'action_space', 'actions', 'auto', 'bin_limits', 'devices',
                        'loaded_checkpoint', 'safety_guard', 'decoding', 'openvla'},
    'policy_check': LEAVES | {'actions', 'devices', 'loaded_checkpoint', 'policy', 'decoding',
                              'openvla'},
    'libero': LEAVES,
    'learning': ENGINE,
    'training': ENGINE | {'libero', 'bags', 'learning', 'recordings', 'workforce'},
    'bags': LEAVES,
    'recordings': LEAVES | {'bags'},
    'benchmark': ENGINE | {'libero', 'bags', 'recordings', 'workforce'},
    'tools': ENGINE | {'libero', 'bags', 'benchmark', 'recordings'},
    'nodes': ENGINE | {'libero', 'bags', 'learning', 'action', 'msg'},
    'cli': LEAVES | {'benchmark', 'tools', 'training'},
    'errors': set(),
    'files': {'errors', 'writable'},
    'hashing': set(),
    'progress': set(),
    'typed_files': {'errors'},
    'config_folder': {'errors'},
    'components': {'errors', 'typed_files'},
    'configuration': {'components', 'config_folder', 'errors', 'typed_files'},
    'data_sets': {'config_folder', 'errors', 'configuration', 'typed_files'},
    'safety': {'safety_settings'},
    'safety_settings': {'config_folder', 'errors', 'typed_files'},
    'camera': {'errors', 'encodings', 'pictures'},
    'encodings': {'errors', 'pictures'},
    'pictures': {'errors'},
    'steps': set(),
    'execution': {'errors'},
    'registry': {'errors', 'typed_files'},
    'situation': set(),
    'drafter_folders': set(),
    'drafter_verdict': {'errors', 'files', 'typed_files'},
    'policy_source': {'configuration', 'typed_files', 'embedded'},
    'embedded': {'errors'},
    'calibrated': {'configuration', 'drafter_folders', 'errors', 'hashing'},
    'rotation': set(),
    'workforce': {'errors', 'hashing'},
    'unused_options': {'errors'},
    'natural_order': set(),
    'writable': {'errors'},
    '__init__': set(),
    '__main__': {'cli'},
}
# What only one room knows.
ONLY_IN = {
    'nodes': {'rclpy', 'std_msgs', 'sensor_msgs', 'geometry_msgs', 'diagnostic_msgs', 'std_srvs',
              'builtin_interfaces', 'rcl_interfaces', 'control_msgs', 'launch', 'launch_ros'},
    # Built for another numpy it takes the process with it: specvla_ros/encodings.py says more.
    'no room': {'cv_bridge'},
    'libero': {'robosuite', 'libero', 'bddl', 'mujoco'},
    'workforce': {'ray'},
}
# Rooms within a room: they share what lies beside them, and none knows another.
SEPARATE = [('nodes', ('policy_node', 'libero_bridge')),
            ('benchmark', ('latency', 'episodes', 'bag_replay', 'calibration'))]
HEAVY = {'torch', 'transformers', 'rclpy', 'mujoco', 'robosuite', 'libero'}


def sources() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob('*.py'))


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT / PACKAGE).parts[0]
    return first.removesuffix('.py')


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all imports in a file; `from a import b` gives a.b."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            for alias in node.names:
                yield node.lineno, '.'.join([*base, *filter(None, [node.module]), alias.name])


@pytest.mark.parametrize('path', sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f'{room} is a new room: say here what it may import'
    for line, name in imports(path):
        top, _, rest = name.partition('.')
        if top == PACKAGE:
            other = rest.partition('.')[0]
            if (ROOT / PACKAGE / other).is_dir() or (ROOT / PACKAGE / f'{other}.py').is_file() \
                    or other == 'msg':
                assert other == room or other in MAY_IMPORT[room], \
                    f'{path}:{line}: {room} imports {other}'
            continue
        for owner, names in ONLY_IN.items():
            assert room == owner or top not in names, f'{path}:{line}: {room} imports {top}'


@pytest.mark.parametrize('room, inner', SEPARATE, ids=lambda value: str(value))
def test_rooms_within_a_room_are_separate(room, inner):
    for name in inner:
        others = {f'{PACKAGE}.{room}.{other}.' for other in inner if other != name}
        files = [*(ROOT / PACKAGE / room / name).rglob('*.py')]
        assert files, f'{room}/{name} is gone: say here what took its place'
        for path in files:
            for line, found in imports(path):
                assert not any(f'{found}.'.startswith(other) for other in others), \
                    f'{path}:{line}: {name} imports {found}'


def test_no_files_import_each_other_in_a_circle():
    modules = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'):
               path for path in sources()}
    graph = {name: {module for _, found in imports(path)
                    if (module := _module_of(found, modules)) not in (None, name)}
             for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(' <- '.join(error.args[1]))


def _module_of(name: str, modules: dict[str, Path]) -> str | None:
    """Return the file a dotted name is in: `a.b.thing` is in a.b, a package's own in its init."""
    while name and name not in modules:
        name = name.rpartition('.')[0]
    return name or None


@pytest.mark.parametrize('leaf', sorted(LEAVES | {'cli', '__init__'}))
def test_leaves_are_light(leaf):
    path = ROOT / PACKAGE / f'{leaf}.py'
    if not path.is_file():
        pytest.skip(f'{path.name} is not there yet')
    found = {name.partition('.')[0] for _, name in imports(path)} & HEAVY
    assert not found, f'{path.name} imports {found}'


def test_relative_imports_are_resolved(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'ROOT', tmp_path)
    path = tmp_path / PACKAGE / 'nodes' / 'x.py'
    path.parent.mkdir(parents=True)
    path.write_text('from ..policy import Policy\nfrom . import qos\nimport a.b\n')
    assert [name for _, name in imports(path)] == [
        f'{PACKAGE}.policy.Policy', f'{PACKAGE}.nodes.qos', 'a.b']

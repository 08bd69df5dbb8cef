"""
What all tests share: ROS 2 kept apart from other machines, and which of them run side by side.

`make test` runs most tests in a few processes (pytest-xdist). A test marked `alone` talks over DDS
or looks at the clock, which works only while nothing else keeps the cores busy: such tests run one
by one in the first process, after all others. Whoever uses the fixture `probe` is marked by that.
Without `-n`, all tests run one by one in the order of their files.
"""
import os

from hypothesis import settings
import pytest

# In a test that isn't marked, so that a node it starts ends with an error that says what to do.
UNMARKED = 'mark-the-test-alone'


def domain() -> str:
    """
    Give a ROS domain per run and per process of it, so that none meets another.

    Above 101, DDS ports may collide with those the kernel hands out.
    """
    given, worker = (os.environ.get(name) for name in ('ROS_DOMAIN_ID', 'PYTEST_XDIST_WORKER'))
    if given == UNMARKED or given and not worker:
        return given
    number = int(given or os.getpid())
    return str((number + int((worker or 'gw0').removeprefix('gw'))) % 101 + 1)


os.environ['ROS_DOMAIN_ID'] = domain()
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
# Without these checks, an array of a wrong length is serialised beyond its end.
os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')
os.environ.setdefault('MUJOCO_GL', 'osmesa')
os.environ.setdefault('OMP_NUM_THREADS', '1')  # threads that share a core spin

# Shared cores make single examples slow now and then; that is no failure.
settings.register_profile('specvla', deadline=None, derandomize=bool(os.environ.get('CI')))
settings.load_profile('specvla')


def side_by_side(config: pytest.Config) -> bool:
    """Say whether this process leads others that run the tests."""
    return config.pluginmanager.hasplugin('dsession')


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what needs DDS, and leave each process the tests that are its own."""
    for item in items:
        if 'probe' in item.fixturenames:
            item.add_marker('alone')
    if hasattr(config, 'workerinput'):
        items[:] = [item for item in items if not item.get_closest_marker('alone')]
    elif side_by_side(config):
        items[:] = [item for item in items if item.get_closest_marker('alone')]


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    """Once the others are through, run the tests that want to be alone: one run, one summary."""
    done = yield
    if side_by_side(session.config):
        before = session.testscollected
        terminal = session.config.pluginmanager.get_plugin('terminalreporter')
        terminal.ensure_newline()
        terminal.section('one by one')
        session.perform_collect()
        session.testscollected += before
        for item, following in zip(session.items, [*session.items[1:], None]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return done


@pytest.fixture(autouse=True)
def no_dds_beside_other_tests(request, monkeypatch):
    if not request.node.get_closest_marker('alone'):
        monkeypatch.setenv('ROS_DOMAIN_ID', UNMARKED)

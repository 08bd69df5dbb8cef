"""`specvla doctor`: says what is missing and what to do, and never falls over it."""

import fcntl
import json
import os
import shutil
from types import SimpleNamespace

import pytest

from specvla_ros.libero import renderer
from specvla_ros.tools import doctor, probes
from specvla_ros.tools.doctor import DoctorArgs, run
from specvla_ros.tools.finding import Finding, try_script


@pytest.fixture
def findings(monkeypatch):
    """Replace the checks by two that find what the test says."""
    def use(*found):
        monkeypatch.setattr(doctor, 'checks', lambda args: [
            (finding.name, lambda finding=finding: finding) for finding in found])
    return use


OK = Finding('torch', 'ok', '2.13 on a CPU')
NOTE = Finding('memory', 'note', '4 GiB', 'close other programs')
MISSING = Finding('renderer', 'missing', 'no libOSMesa', 'apt-get install libosmesa6')


@pytest.mark.parametrize('found, code', [((OK, NOTE), 0), ((OK, MISSING), 1)])
def test_only_what_the_demo_needs_makes_it_fail(findings, found, code, capsys, tmp_path):
    findings(*found)
    path = tmp_path / 'x.json'
    assert run(DoctorArgs(json=path)) == code
    said = capsys.readouterr().out
    assert all(finding.todo in said for finding in found)
    document = json.loads(path.read_text())
    assert document['ready'] == (code == 0)
    assert [check['state'] for check in document['checks']] == [f.state for f in found]


def test_json_into_a_missing_folder_is_refused():
    with pytest.raises(ValueError, match='there is no folder'):
        run(DoctorArgs(json='no/such/x.json'))


def test_a_check_that_crashes_is_a_finding():
    finding = try_script('x', 'import os; os.abort()', 'do this')
    assert (finding.state, finding.todo) == ('missing', 'do this')
    finding = try_script('x', 'raise OSError("no such driver")', 'do this')
    assert finding.detail == 'OSError: no such driver'


def test_a_check_that_hangs_is_a_finding(monkeypatch):
    monkeypatch.setattr('specvla_ros.tools.finding.TIMEOUT_S', 0.5)
    assert 'no answer' in try_script('x', 'import time; time.sleep(60)', '').detail


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Give a function that puts a Python package before all others, for other processes too."""
    def make(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text(text)
        monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
        monkeypatch.syspath_prepend(tmp_path)
    return make


def test_opencv_is_really_used():
    finding = doctor.check_opencv()
    assert finding.state == 'ok' and 'with numpy 2' in finding.detail


@pytest.mark.parametrize('text, found', [
    ("raise ImportError('numpy.core.multiarray failed\\nto import')",
     'was built for another numpy than numpy 2'),
    ("raise AttributeError('_ARRAY_API not found')", '_ARRAY_API not found'),
    ('import os; os.kill(os.getpid(), 11)', 'the process crashes in OpenCV'),
])
def test_an_opencv_that_was_built_for_another_numpy_is_one_line(module, tmp_path, text, found):
    module('cv2', text)
    finding = doctor.check_opencv()
    assert finding.state == 'missing' and found in finding.detail
    assert str(tmp_path / 'cv2') in finding.detail and '\n' not in finding.detail
    assert 'requirements/robot.txt' in finding.todo


def test_a_second_opencv_is_noted(module, tmp_path):
    module('cv2', f'import sys; sys.path.remove({str(tmp_path)!r}); del sys.modules["cv2"]\n'
                  'import cv2')
    finding = doctor.check_opencv()
    assert finding.state == 'note' and f'{tmp_path}/cv2 hides ' in finding.detail
    assert 'keep one' in finding.todo


def test_two_wheels_of_opencv_are_noted(tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    info = tmp_path / 'opencv_python-4.9.0.80.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: opencv-python\n'
                                   'Version: 4.9.0.80\n')
    finding = doctor.check_opencv()
    assert finding.state == 'note' and 'pip' in finding.todo
    assert 'is mixed of opencv-python 4.9.0.80, opencv-python-headless 5' in finding.detail


@pytest.mark.parametrize('text, state, found', [
    ('class CvBridge:\n    def imgmsg_to_cv2(self, image, encoding): pass', 'ok', 'with numpy 2'),
    ('class CvBridge:\n    def imgmsg_to_cv2(self, image, encoding): '
     'raise ImportError("numpy.core.multiarray failed")', 'note', 'does not work: numpy'),
    ('class CvBridge:\n    def imgmsg_to_cv2(self, image, encoding): '
     'import os; os.kill(os.getpid(), 11)', 'note', 'the process crashes in cv_bridge'),
    ('raise AttributeError("_ARRAY_API not found")', 'note', '_ARRAY_API not found'),
])
def test_a_cv_bridge_that_was_built_for_another_numpy_is_noted(module, text, state, found):
    module('cv_bridge', text)
    names = [name for name, _ in doctor.checks(DoctorArgs())]
    assert 'cv_bridge' in names
    finding = doctor.check_cv_bridge()
    assert finding.state == state and found in finding.detail


def test_cv_bridge_is_not_missed():
    assert 'cv_bridge' not in [name for name, _ in doctor.checks(DoctorArgs())]


def test_the_renderer_is_really_used(monkeypatch):
    assert try_script('renderer', renderer.PROBE, '').state == 'ok'
    monkeypatch.setenv('MUJOCO_GL', 'nonsense')
    finding = try_script('renderer', renderer.PROBE, '')
    assert finding.state == 'missing' and 'nonsense' in finding.detail


def test_the_checkpoint_is_really_loaded(tiny_checkpoint, tmp_path):
    args = DoctorArgs(checkpoint=tiny_checkpoint)
    for name, decoder in (('checkpoint', 'ar'), ('drafter', 'strict')):
        finding = doctor.check_policy(args, name, decoder)
        assert finding.state == 'ok' and '7 tokens' in finding.detail
    nowhere = doctor.check_policy(DoctorArgs(checkpoint=tmp_path / 'x'), 'checkpoint', 'ar')
    assert nowhere.state == 'missing' and '--checkpoint' in nowhere.todo


def test_another_transformers_is_a_finding_with_its_version(tmp_path, monkeypatch):
    script, = (script for name, script, _ in doctor.SCRIPTS if name == 'transformers')
    assert try_script('transformers', script, '').state == 'ok'
    (tmp_path / 'transformers.py').write_text('__version__ = "5.17.0"')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    finding = try_script('transformers', script, 'do this')
    assert (finding.state, finding.todo) == ('missing', 'do this')
    assert finding.detail.startswith('transformers 5.17.0 is installed, >=5.18,<6 is needed: ')


def test_a_library_that_cannot_be_imported_is_a_finding(monkeypatch):
    def fail(*_):
        raise ImportError('libtorch_cpu.so: cannot open shared object file')

    monkeypatch.setattr(doctor.machine, 'checkpoint_folders', fail)
    monkeypatch.setattr(doctor.machine, 'checkpoint_sha256', fail)
    finding = doctor.check_policy(DoctorArgs(), 'checkpoint', 'ar')
    assert finding.state == 'missing' and 'libtorch_cpu.so' in finding.detail
    assert doctor._hashes(DoctorArgs()) == {'target_sha256': None, 'drafter_sha256': None}


def test_quantisation_is_really_tried_and_its_absence_is_no_fault(monkeypatch):
    finding = doctor.check_quantization()
    assert finding.state == 'ok'
    assert 'int8 on cpu, off by' in finding.detail and 'int4 on cpu, off by' in finding.detail
    monkeypatch.setattr(probes, 'QUANTIZATION', 'raise ValueError("torchao is not installed")')
    finding = doctor.check_quantization()
    assert finding.state == 'note' and 'extra quant' in finding.todo


def test_python_ffmpeg_and_room_are_checked():
    assert doctor.check_python().state == 'ok'
    assert doctor.check_ffmpeg().state == 'ok'
    assert 'GiB free' in doctor.check_disk().detail


def test_shared_memory_that_killed_nodes_left_is_told_from_that_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: SimpleNamespace(total=10 * 2**20))
    for name in 'ab':
        (tmp_path / f'fastrtps_{name}').write_bytes(bytes(2 * 2**20))
        (tmp_path / f'fastrtps_{name}_el').touch()
    with open(tmp_path / 'fastrtps_a_el') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        finding = doctor.check_shared_memory(tmp_path)
    assert finding.state == 'ok'
    assert finding.detail.startswith('2 of 10 MiB are taken by 1 files')
    finding = doctor.check_shared_memory(tmp_path)
    assert finding.state == 'note' and 'by 2 files' in finding.detail
    assert f'rm {tmp_path}' in finding.todo

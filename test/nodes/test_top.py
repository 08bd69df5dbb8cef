"""`specvla top`: what it sums up, what it shows, and that it hears a real node's topics."""
import array
from dataclasses import asdict
import io
import os
import signal
import subprocess
import sys

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Vector3
import pytest
from rich.console import Console
from specvla_ros.msg import ActionDelta, DecodeReport

from specvla_ros.nodes import qos
from specvla_ros.nodes.top_node import Window
from specvla_ros.tools.top import picture


def action(x=0.0, limited=False):
    return ActionDelta(translation=[Vector3(x=x)], rotation=[Vector3()], limited=limited,
                       gripper=array.array('f', [1.0]))


def report(passes, histogram, **times):
    return DecodeReport(
        decoder='relaxed', target_passes=passes, acceptance_histogram=array.array('I', histogram),
        token_sources=['target', 'eagle'], **times)


def diagnostics(**values):
    values = {'acceptance length [tokens/pass]': '3.00', **values}
    return DiagnosticArray(status=[
        DiagnosticStatus(name='a motor', message='hot'),
        DiagnosticStatus(name='policy', message='active', values=[
            KeyValue(key=key, value=value) for key, value in values.items()])])


def shown(view):
    console = Console(file=io.StringIO(), width=100)
    console.print(picture(asdict(view)))
    return console.file.getvalue()


def test_tokens_that_the_target_never_saw_are_told_from_drafts_it_accepted():
    window, chosen, accepted = Window(), DecodeReport.CHOSEN, DecodeReport.ACCEPTED
    window.add_action(0.0, action())
    window.add_report(0.0, DecodeReport(
        decoder='kerv (unverified)', target_passes=1, token_sources=['target', 'kalman', 'kalman'],
        token_origins=array.array('B', [chosen, accepted, DecodeReport.UNVERIFIED])))
    view = window.view(0.0)
    assert view.sources == {'target': 1, 'kalman': 1, 'kalman (unverified)': 1}
    assert 'kerv (unverified): 1.00 passes' in shown(view)
    assert 'kalman (unverified)' in shown(view)


def test_rates_and_means_are_over_the_last_ten_seconds():
    window = Window()
    for second in range(20):
        window.add_action(float(second), action(x=second * 1e-3))
        passes, histogram = (7, [0, 6]) if second < 10 else (3, [0, 0, 0, 2])
        window.add_report(float(second), report(passes, histogram, vision_time=0.01))
    view = window.view(19.5)
    assert (view.rate, view.silence, view.passes, view.acceptance_length) == (1.0, 0.5, 3.0, 3.0)
    assert view.sources == {'target': 10, 'eagle': 10}
    assert view.stage_ms['vision'] == pytest.approx(10)
    assert view.delta[0] == pytest.approx(0.019)
    late = window.view(60.0)
    assert (late.rate, late.silence, late.passes) == (0.0, 41.0, None)


def test_it_shows_what_was_heard_and_says_so_where_nothing_was():
    window = Window()
    assert 'no policy node has been heard' in shown(window.view(0.0))
    window.add_diagnostics(diagnostics(refused='2'))
    assert 'active' in shown(window.view(0.0)) and 'hot' not in shown(window.view(0.0))
    window.add_action(1.0, action(x=0.0123, limited=True))
    window.add_report(1.0, report(2, [0, 0, 0, 1], vision_time=0.02, total_time=0.05))
    text = shown(window.view(1.2))
    for part in ('+12.3 +0.0 +0.0 mm', 'limited', 'relaxed: 2.00 passes', '3.00 tokens a pass',
                 '50 % eagle', '20.0 ms', 'refused', 'gripper 1.00'):
        assert part in text


def said_within(views, publisher, until):
    """Run `specvla top --views N` while actions are published; return its output."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'specvla_ros', 'top', '--views', str(views)],
        env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(publisher.get_subscription_count, 'specvla top')
        until(lambda: publisher.publish(action(x=0.0123)) or process.poll() is not None, 'its end')
        said, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0
    return said


def test_it_hears_a_node_and_ends_by_itself(probe, until):
    publisher = probe.node.create_publisher(ActionDelta, 'action', qos.STREAM)
    for views in (3, 10, 60):  # on a busy machine it may not have discovered us within 3 s
        said = said_within(views, publisher, until)
        if 'no policy node has been heard' not in said:
            break
    assert '+12.3 +0.0 +0.0 mm' in said


def test_ctrl_c_ends_it(probe, until):
    publisher = probe.node.create_publisher(ActionDelta, 'action', qos.STREAM)
    process = subprocess.Popen(
        [sys.executable, '-m', 'specvla_ros', 'top'], env=dict(os.environ),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(publisher.get_subscription_count, 'specvla top')
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize('options, message', [
    (('--views', '-1'), '--views is -1, must be at least 0'),
    (('--namespace', 'arm'), "--namespace is 'arm', must begin with a /"),
])
def test_bad_input_is_one_line(options, message):
    done = subprocess.run([sys.executable, '-m', 'specvla_ros', 'top', *options],
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (2, f'error: {message}')

"""How soon `policy_node` stops: no action later than one control step after it was told to."""
import signal
import time

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import to_nanoseconds
from test.proc import read_each

NODE = 'fake_policy_node.py'
PERIOD = 0.05  # s, the control step of the fake policy
MEASURED, ATTEMPTS = 3, 30


def waited(*pids):
    """Return how long the threads of processes have been ready to run and had no CPU, s."""
    threads = (text for pid in pids for text in read_each(f'{pid}/task/*/schedstat'))
    return 1e-9 * sum(int(text.split()[1]) for text in threads)


def reaction(robot, node, stop):
    """
    Call `stop`; return how long after that the last action was published, s; less than 0: before.

    None where it was too long after and that was the machine's doing: for half of that control
    step node or test were ready to run and had no CPU.
    """
    pids = node.popen.pid, 'self'
    before, stopped = waited(*pids), time.time()
    stop()
    time.sleep(max(0.0, stopped + PERIOD - time.time()))
    disturbed = waited(*pids) - before > PERIOD / 2
    time.sleep(0.5)
    late = to_nanoseconds(robot.actions[-1].header.stamp) * 1e-9 - stopped
    return None if late >= PERIOD and disturbed else late


@pytest.fixture
def see_it_stop(robot, until):
    """Give a function that has a node stop while it acts, and go on, until that was measured."""
    def see_it_stop(node, stop, go_on):
        measured, attempts = [], 0
        while len(measured) < MEASURED:
            attempts += 1
            assert attempts <= ATTEMPTS, 'the machine is too busy'
            count = len(robot.actions)
            until(lambda most=count + 3: len(robot.actions) >= most, 'it acts')
            late = reaction(robot, node, stop)
            go_on()
            if late is not None:
                measured.append(late)
        print('last action', [f'{1e3 * late:+.1f} ms' for late in measured], 'after the stop,',
              attempts, 'attempts')
        assert max(measured) < PERIOD
    return see_it_stop


@pytest.fixture
def act(robot, start, until, flood):
    """Give a function that starts a node and lets it act on so many images a second."""
    def act(rate, **environment):
        node = start(NODE, FAKE_ACT_S='0.02', **environment)
        robot.connect(until)
        robot.say('pick up')
        reds = iter(range(10**6))
        flood(robot.camera, lambda: robot.make_image((next(reds) % 256, 2, 3), size=64), 1 / rate)
        return node
    return act


@pytest.fixture
def press(probe):
    """Give a function that presses the button for the emergency stop."""
    button = probe.node.create_publisher(Bool, 'emergency_stop', qos.LATCHED)

    def press():
        button.publish(Bool(data=True))

    press.connect = lambda: probe.wait_for_subscribers(button, count=2)
    return press


@pytest.fixture
def reset(probe):
    """Give a function that ends the emergency stop."""
    def reset():
        answer = probe.call(Trigger, 'policy_node/reset_emergency_stop', Trigger.Request())
        assert answer.success  # it had been heard
    return reset


@pytest.mark.parametrize('rate, chunk', [(20, 1), (500, 1), (20, 16)])
def test_an_emergency_stop(act, press, reset, see_it_stop, rate, chunk):
    node = act(rate, FAKE_CHUNK=str(chunk))
    press.connect()
    see_it_stop(node, press, reset)


def test_a_chunk_ends_with_its_instruction_its_camera_and_its_node(robot, start, until):
    """Each while steps of a chunk of 16 are executed, 0.8 s of them: none comes after it."""
    node = start(NODE, FAKE_ACT_S='0.02', FAKE_CHUNK='16')
    robot.connect(until)
    robot.say('pick up')

    def steps():
        return [action for action in robot.actions if action.token_ids]

    def after(time_s, is_old):
        return [to_nanoseconds(action.header.stamp) * 1e-9 - time_s for action in steps()
                if is_old(action) and to_nanoseconds(action.header.stamp) * 1e-9 > time_s]

    robot.watch(1, 2, 3, seconds=2.0)
    assert len(steps()) > 20
    assert {action.first_step for action in steps()} >= set(range(1, 15))
    numbers = [(to_nanoseconds(action.image_stamp), action.first_step) for action in steps()]
    assert numbers == sorted(set(numbers))  # none twice, none out of order
    robot.say('something else')
    said = time.time()
    robot.watch(1, 2, 3, seconds=0.6)
    assert max(after(said, lambda action: action.token_ids[3] == 7), default=0.0) < PERIOD
    assert after(said, lambda action: action.token_ids[3] == 14)  # under the new one it goes on

    last = time.time() - PERIOD  # `watch` slept after its last image
    node.says('no new image for more than')
    lost = time.time()
    time.sleep(0.5)
    assert not after(lost, bool)
    print('last step', max(after(last, bool), default=0.0), 's after the last image')
    assert max(after(last, bool), default=0.0) < 5 * PERIOD  # by 2.5 longest intervals

    robot.watch(1, 2, 3, seconds=0.5)
    assert after(lost, bool)
    node.kill()
    time.sleep(0.2)
    count = len(robot.actions)
    robot.watch(1, 2, 3, seconds=0.3)
    assert len(robot.actions) == count


def test_an_emergency_stop_while_a_change_of_decoder_loads(
        robot, act, press, reset, see_it_stop, until, tmp_path):
    node, log = act(20, FAKE_DECODER_S='60'), tmp_path / 'fake.log'
    press.connect()
    change = robot.probe.begin_to_set_parameters(decoder='ar')
    until(lambda: 'load a decoder' in log.read_text(), 'a load under way')
    see_it_stop(node, press, reset)
    assert not change.done()
    node.kill()  # it would wait for the load


@pytest.mark.parametrize('rate, chunk', [(50, 1), (20, 16)])
def test_a_deactivation(robot, probe, act, see_it_stop, until, rate, chunk):
    node = act(rate, FAKE_CHUNK=str(chunk))
    client = probe.node.create_client(ChangeState, 'policy_node/change_state')
    assert client.wait_for_service(120)
    time.sleep(0.3)  # its side of the discovery: a request that comes before is sent again, later
    answers = []

    def ask(transition):
        request = ChangeState.Request()
        request.transition.id = transition
        answers.append(client.call_async(request))

    def stop():
        ask(Transition.TRANSITION_DEACTIVATE)

    def go_on():
        until(answers[-1].done, 'the answer to the deactivation')
        assert answers[-1].result().success
        count = len(robot.actions)
        time.sleep(0.2)
        assert len(robot.actions) == count
        ask(Transition.TRANSITION_ACTIVATE)
        until(answers[-1].done, 'the answer to the activation')
        robot.connect(until)

    see_it_stop(node, stop, go_on)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_chunk_ends_with_the_process_that_is_told_to_end(robot, act, until, number):
    """0.8 s of steps are left of it, and the camera goes on."""
    node = act(20, FAKE_CHUNK='16')
    until(lambda: sum(bool(action.token_ids) for action in robot.actions) > 5, 'it acts')
    told = time.time()
    assert node.interrupt(number) == 0
    time.sleep(0.2)
    last = robot.actions[-1]
    late = to_nanoseconds(last.header.stamp) * 1e-9 - told
    print(f'last step {1e3 * late:+.1f} ms after the signal')
    assert late < PERIOD and last.first_step < 15

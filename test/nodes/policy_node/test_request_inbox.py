"""What `RequestInbox` promises, without ROS."""
import threading
import time

import pytest

from specvla_ros.nodes.policy_node.request_inbox import RequestInbox


def test_nothing_to_take_before_image_and_instruction():
    inbox = RequestInbox()
    assert inbox.take() is None
    inbox.put_image('a', 1)
    assert inbox.take() is None
    inbox.put_instruction('go')
    assert inbox.take().image == 'a'


def test_only_the_newest_image_is_taken_and_only_once():
    inbox = RequestInbox()
    inbox.put_instruction('go')
    for stamp, image in enumerate('abc', start=1):
        inbox.put_image(image, stamp)
    assert inbox.take().image == 'c'
    assert inbox.take() is None


def test_a_copy_of_the_image_before_is_no_new_image():
    inbox = RequestInbox()
    inbox.put_instruction('go')
    assert inbox.put_image('a', 7)
    request = inbox.take()
    assert not inbox.put_image('a', 7)
    assert inbox.answer(request, lambda: None)
    assert not inbox.put_image('a', 7)
    assert inbox.take() is None
    assert inbox.put_image('b', 0)
    assert inbox.put_image('c', 0)


def test_an_answer_for_a_replaced_instruction_is_refused_and_its_image_taken_again():
    inbox, published = RequestInbox(), []
    inbox.put_instruction('go')
    inbox.put_image('a', 1)
    request = inbox.take()
    inbox.put_instruction('stop')
    assert not inbox.answer(request, lambda: published.append('go'))
    again = inbox.take()
    assert (again.image, again.instruction) == ('a', 'stop')
    assert inbox.answer(again, lambda: published.append('stop'))
    assert published == ['stop']
    inbox.put_instruction('go')
    assert inbox.take() is None


def test_a_newer_image_goes_before_the_one_to_be_taken_again():
    inbox = RequestInbox()
    inbox.put_instruction('go')
    inbox.put_image('a', 1)
    inbox.take()
    inbox.put_image('b', 2)
    inbox.put_instruction('stop')
    assert inbox.take().image == 'b'
    assert inbox.take() is None


def test_the_same_instruction_cancels_nothing():
    inbox = RequestInbox()
    inbox.put_instruction('go')
    inbox.put_image('a', 1)
    request = inbox.take()
    assert not inbox.put_instruction('go')
    assert inbox.answer(request, lambda: None)


def test_no_instruction_no_request():
    inbox = RequestInbox()
    inbox.put_instruction('go')
    inbox.put_instruction('')
    inbox.put_image('a', 1)
    assert inbox.take() is None


def test_a_dropped_image_is_not_taken_again():
    inbox = RequestInbox()
    inbox.put_instruction('go')
    inbox.put_image('a', 1)
    inbox.drop(inbox.take())
    inbox.put_instruction('stop')
    assert inbox.take() is None


def test_a_policy_holds_from_the_next_request_on():
    inbox = RequestInbox('old')
    inbox.put_instruction('go')
    inbox.put_image('a', 1)
    request = inbox.take()
    inbox.set_policy('new')
    inbox.put_image('b', 2)
    assert (request.policy, inbox.take().policy) == ('old', 'new')


@pytest.mark.parametrize('interrupt', [
    lambda inbox: inbox.put_instruction('stop'), RequestInbox.pause], ids=['instruction', 'pause'])
def test_nothing_slips_in_between_the_check_and_publishing(interrupt):
    inbox, order = RequestInbox(), []
    inbox.put_instruction('go')
    inbox.put_image('a', 1)
    request = inbox.take()

    def publish():
        thread.start()
        time.sleep(0.05)
        order.append('published')

    thread = threading.Thread(target=lambda: (interrupt(inbox), order.append('interrupted')))
    assert inbox.answer(request, publish)
    thread.join()
    assert order == ['published', 'interrupted']


def test_nothing_counts_while_paused_and_the_next_image_does_afterwards():
    inbox = RequestInbox()
    inbox.put_instruction('go')
    inbox.put_image('a', 1)
    request = inbox.take()
    inbox.pause()
    assert not inbox.answer(request, lambda: None)
    assert not inbox.put_image('b', 2)
    inbox.put_instruction('stop')
    assert inbox.take() is None
    inbox.resume()
    assert inbox.take() is None
    inbox.put_image('c', 3)
    assert (inbox.take().image, request.revision) == ('c', 1)
    assert not inbox.answer(request, lambda: None)

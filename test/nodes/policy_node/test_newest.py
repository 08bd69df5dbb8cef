"""What `Newest` promises, without ROS."""
import threading
import time

import pytest

from specvla_ros.nodes.policy_node.newest import Newest


def test_nothing_to_take_before_image_and_instruction():
    newest = Newest()
    assert newest.take() is None
    newest.put_image('a', 1)
    assert newest.take() is None
    newest.put_instruction('go')
    assert newest.take().image == 'a'


def test_only_the_newest_image_is_taken_and_only_once():
    newest = Newest()
    newest.put_instruction('go')
    for stamp, image in enumerate('abc', start=1):
        newest.put_image(image, stamp)
    assert newest.take().image == 'c'
    assert newest.take() is None


def test_a_copy_of_the_image_before_is_no_new_image():
    newest = Newest()
    newest.put_instruction('go')
    assert newest.put_image('a', 7)
    job = newest.take()
    assert not newest.put_image('a', 7)
    assert newest.answer(job, lambda: None)
    assert not newest.put_image('a', 7)
    assert newest.take() is None
    assert newest.put_image('b', 0)
    assert newest.put_image('c', 0)


def test_an_answer_for_a_replaced_instruction_is_refused_and_its_image_taken_again():
    newest, published = Newest(), []
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = newest.take()
    newest.put_instruction('stop')
    assert not newest.answer(job, lambda: published.append('go'))
    again = newest.take()
    assert (again.image, again.instruction) == ('a', 'stop')
    assert newest.answer(again, lambda: published.append('stop'))
    assert published == ['stop']
    newest.put_instruction('go')
    assert newest.take() is None


def test_a_newer_image_goes_before_the_one_to_be_taken_again():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_image('a', 1)
    newest.take()
    newest.put_image('b', 2)
    newest.put_instruction('stop')
    assert newest.take().image == 'b'
    assert newest.take() is None


def test_the_same_instruction_cancels_nothing():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = newest.take()
    assert not newest.put_instruction('go')
    assert newest.answer(job, lambda: None)


def test_no_instruction_no_job():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_instruction('')
    newest.put_image('a', 1)
    assert newest.take() is None


def test_a_dropped_image_is_not_taken_again():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_image('a', 1)
    newest.drop(newest.take())
    newest.put_instruction('stop')
    assert newest.take() is None


def test_settings_hold_from_the_next_job_on():
    newest = Newest('old')
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = newest.take()
    newest.set_settings('new')
    newest.put_image('b', 2)
    assert (job.settings, newest.take().settings) == ('old', 'new')


@pytest.mark.parametrize('interrupt', [
    lambda newest: newest.put_instruction('stop'), Newest.pause], ids=['instruction', 'pause'])
def test_nothing_slips_in_between_the_check_and_publishing(interrupt):
    newest, order = Newest(), []
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = newest.take()

    def publish():
        thread.start()
        time.sleep(0.05)
        order.append('published')

    thread = threading.Thread(target=lambda: (interrupt(newest), order.append('interrupted')))
    assert newest.answer(job, publish)
    thread.join()
    assert order == ['published', 'interrupted']


def test_nothing_counts_while_paused_and_the_next_image_does_afterwards():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = newest.take()
    newest.pause()
    assert not newest.answer(job, lambda: None)
    assert not newest.put_image('b', 2)
    newest.put_instruction('stop')
    assert newest.take() is None
    newest.resume()
    assert newest.take() is None
    newest.put_image('c', 3)
    assert (newest.take().image, job.revision) == ('c', 1)
    assert not newest.answer(job, lambda: None)

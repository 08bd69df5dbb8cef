"""What `Newest` promises, without ROS."""
import threading
import time

import pytest

from specvla_ros.nodes.policy_node.newest import Newest


def take(newest):
    return newest.take(timeout=0)


def test_nothing_to_take_before_image_and_instruction():
    newest = Newest()
    assert take(newest) is None
    newest.put_image('a', 1)
    assert take(newest) is None
    newest.put_instruction('go')
    assert take(newest).image == 'a'


def test_only_the_newest_image_is_taken_and_only_once():
    newest = Newest()
    newest.put_instruction('go')
    for stamp, image in enumerate('abc', start=1):
        newest.put_image(image, stamp)
    assert take(newest).image == 'c'
    assert take(newest) is None


def test_a_copy_of_the_image_before_is_no_new_image():
    newest = Newest()
    newest.put_instruction('go')
    assert newest.put_image('a', 7)
    job = take(newest)
    assert not newest.put_image('a', 7)
    assert newest.answer(job, lambda: None)
    assert not newest.put_image('a', 7)
    assert take(newest) is None
    assert newest.put_image('b', 0)
    assert newest.put_image('c', 0)


def test_an_answer_for_a_replaced_instruction_is_refused_and_its_image_taken_again():
    newest, published = Newest(), []
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = take(newest)
    newest.put_instruction('stop')
    assert not newest.answer(job, lambda: published.append('go'))
    again = take(newest)
    assert (again.image, again.instruction) == ('a', 'stop')
    assert newest.answer(again, lambda: published.append('stop'))
    assert published == ['stop']
    newest.put_instruction('go')
    assert take(newest) is None


def test_a_newer_image_goes_before_the_one_to_be_taken_again():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_image('a', 1)
    take(newest)
    newest.put_image('b', 2)
    newest.put_instruction('stop')
    assert take(newest).image == 'b'
    assert take(newest) is None


def test_the_same_instruction_cancels_nothing():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = take(newest)
    assert not newest.put_instruction('go')
    assert newest.answer(job, lambda: None)


def test_no_instruction_no_job():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_instruction('')
    newest.put_image('a', 1)
    assert take(newest) is None


def test_a_dropped_image_is_not_taken_again():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_image('a', 1)
    newest.drop(take(newest))
    newest.put_instruction('stop')
    assert take(newest) is None


def test_settings_hold_from_the_next_job_on():
    newest = Newest('old')
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = take(newest)
    newest.set_settings('new')
    newest.put_image('b', 2)
    assert (job.settings, take(newest).settings) == ('old', 'new')


@pytest.mark.parametrize('interrupt', [
    lambda newest: newest.put_instruction('stop'), Newest.pause], ids=['instruction', 'pause'])
def test_nothing_slips_in_between_the_check_and_publishing(interrupt):
    newest, order = Newest(), []
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = take(newest)

    def publish():
        thread.start()
        time.sleep(0.05)
        order.append('published')

    thread = threading.Thread(target=lambda: (interrupt(newest), order.append('interrupted')))
    assert newest.answer(job, publish)
    thread.join()
    assert order == ['published', 'interrupted']


def test_a_worker_that_waits_is_woken():
    newest, jobs = Newest(), []
    worker = threading.Thread(target=lambda: jobs.append(newest.take(timeout=10)))
    worker.start()
    newest.put_image('a', 1)
    newest.put_instruction('go')
    worker.join(5)
    assert jobs[0].image == 'a'


def test_nothing_counts_while_paused_and_the_next_image_does_afterwards():
    newest = Newest()
    newest.put_instruction('go')
    newest.put_image('a', 1)
    job = take(newest)
    newest.pause()
    assert not newest.answer(job, lambda: None)
    assert not newest.put_image('b', 2)
    newest.put_instruction('stop')
    assert take(newest) is None
    newest.resume()
    assert take(newest) is None
    newest.put_image('c', 3)
    assert (take(newest).image, job.revision) == ('c', 1)
    assert not newest.answer(job, lambda: None)

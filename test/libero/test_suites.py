import pytest

from specvla_ros.libero import suites


def test_the_five_suites_have_libero_s_task_counts():
    counts = {suite: len(suites.tasks(suite)) for suite in suites.SUITES}
    assert counts == {'libero_spatial': 10, 'libero_object': 10, 'libero_goal': 10,
                      'libero_10': 10, 'libero_90': 90}


def test_instructions_are_what_libero_itself_derives():
    # LIBERO's benchmark prints these languages for these tasks.
    assert suites.task('libero_object', 0).instruction == (
        'pick up the alphabet soup and place it in the basket')
    assert suites.task('libero_10', 0).instruction == (
        'put both the alphabet soup and the tomato sauce in the basket')
    assert suites.task('libero_90', 9).instruction.islower()


def test_every_task_has_its_scene_and_states_on_disk():
    root = suites.package_folder()
    for suite in suites.SUITES:
        for task in suites.tasks(suite):
            assert (root / 'bddl_files' / suite / f'{task.name}.bddl').is_file()
            assert (root / 'init_files' / suite / f'{task.name}.pruned_init').is_file()


def test_an_unknown_suite_or_task_lists_what_there_is():
    with pytest.raises(ValueError, match='libero_objects.*libero_spatial, libero_object'):
        suites.tasks('libero_objects')
    with pytest.raises(ValueError, match='no task 10; there are: 0 pick up the alphabet soup'):
        suites.task('libero_object', 10)

"""What a session file may say, and what follows from it."""
import json

import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.libero_bridge import node as libero_bridge_node
from specvla_ros.nodes.policy_node import node as policy_node
from specvla_ros.nodes.sessions.session_spec import SessionSpec


def spec(**content):
    return SessionSpec.of({'decoders': ['ar', 'relaxed'], **content})


def test_rounds_go_by_task_then_state_then_decoder():
    rounds = spec(episodes=[[1, 0], [0, 3], [1, 2]]).rounds
    assert [(r.index, r.episode.task, r.episode.state, r.decoder) for r in rounds] == [
        (0, 1, 0, 'ar'), (1, 1, 0, 'relaxed'), (2, 1, 2, 'ar'), (3, 1, 2, 'relaxed'),
        (4, 0, 3, 'ar'), (5, 0, 3, 'relaxed')]


@pytest.mark.parametrize('decoder', ['kerv', 'kerv (unverified)'])
def test_a_round_knows_the_name_reports_will_carry_and_a_file_name_without_blanks(decoder):
    only, = spec(decoders=[decoder], episodes=[[2, 0]]).rounds
    assert (only.decoder, only.config.name) == (decoder, 'kerv (unverified)')
    assert only.file_name == 'kerv-unverified_2_0.npz'


def test_no_two_decoders_are_written_to_the_same_files(tmp_path):
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
    paths = [tmp_path / 'a' / 'my own.yaml', tmp_path / 'b' / 'my-own.yaml']
    for path in paths:
        path.write_text('drafter: {name: none}\nrule: {name: strict}\n')
    with pytest.raises(SpecVLAError, match='written to my-own, my-own, which must differ'):
        spec(decoders=[str(path) for path in paths])


def test_tasks_and_states_stand_for_all_their_pairs():
    episodes = spec(tasks=[0, 2], states=[1]).episodes
    assert [(e.task, e.state) for e in episodes] == [(0, 1), (2, 1)]


def test_the_nodes_know_every_parameter_they_get():
    made = spec(tasks=[0])
    assert set(made.policy_parameters) <= {p.name for p in policy_node.PARAMETERS}
    assert set(made.bridge_parameters) <= {p.name for p in libero_bridge_node.PARAMETERS}


def test_the_simulation_waits_and_so_the_policy_need_not():
    made = spec(tasks=[0])
    assert (made.policy_parameters['pacing'], made.bridge_parameters['mode']) == (
        'lockstep', 'lockstep')


def test_the_bridge_plays_what_the_session_expects():
    from specvla_ros.nodes.play_list import read_play_list
    made = spec(episodes=[[1, 0], [0, 3], [1, 2]])
    parameters = made.bridge_parameters
    played = read_play_list(0, 0, parameters['episodes'], repeats=parameters['repeats'],
                            n_tasks=10, n_states=50)
    assert played == [r.episode for r in made.rounds]


@pytest.mark.parametrize('content, reason', [
    (dict(decoders=[]), 'at least one decoder'),
    (dict(decoders=['ar', 'ar']), 'named twice'),
    (dict(decoders=['sloppy']), "decoder is 'sloppy'"),
    (dict(suite='kitchen'), "unknown suite 'kitchen'"),
    (dict(episodes=[]), 'at least one'),
    (dict(episodes=[[10, 0]]), 'no task 10 with state 0; tasks are 0 to 9'),
    (dict(episodes=[0]), r'must be a list of \[task, state\]'),
    (dict(episodes=[[0, 0], [0, 0]]), 'listed twice'),
    (dict(episodes=[[0, 0]], tasks=[0]), 'not both'),
    (dict(speed=2), r"unknown keys \['speed'\]"),
])
def test_what_cannot_be_is_refused(content, reason):
    with pytest.raises(ValueError, match=reason):
        spec(**content)


def test_the_file(tmp_path):
    path = tmp_path / 'spec.json'
    with pytest.raises(FileNotFoundError):
        SessionSpec.read(path)
    for text, reason in (('{', 'not JSON'), ('[]', 'holds list')):
        path.write_text(text)
        with pytest.raises(SpecVLAError, match=reason):
            SessionSpec.read(path)
    path.write_text(json.dumps({'decoders': ['ar'], 'tasks': [4]}))
    assert SessionSpec.read(path).episodes[0].task == 4

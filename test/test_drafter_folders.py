"""Weights of drafters are found by name, in the layout of today and in the one before."""

import json

import pytest

from specvla_ros.drafter_folders import all_weights, beside, weights_folder


def network(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


def test_each_has_a_folder_of_its_name(tmp_path):
    drafters = beside(tmp_path)
    eagle, glance = (network(drafters / name, model_type=name) for name in ('eagle', 'glance'))
    (drafters / 'notes').mkdir()
    assert drafters == tmp_path / 'drafters'
    assert all_weights(drafters) == {'eagle': eagle, 'glance': glance}
    assert weights_folder(drafters, 'notes') is weights_folder(drafters, 'medusa') is None


@pytest.mark.parametrize('kind', [{}, {'model_type': 'llama'}, {'model_type': 'eagle'}])
def test_the_layout_before_is_still_read(tmp_path, kind):
    eagle = network(tmp_path / 'drafter', **kind)
    glance = network(eagle / 'glance', model_type='glance')
    for drafters in (beside(tmp_path), tmp_path / 'drafter'):
        assert all_weights(drafters) == {'eagle': eagle, 'glance': glance}
    # What is trained anew stands in the layout of today; the others are still found.
    newer = network(beside(tmp_path) / 'glance', model_type='glance')
    assert all_weights(beside(tmp_path)) == {'eagle': eagle, 'glance': newer}
    newest = network(beside(tmp_path) / 'eagle')
    assert weights_folder(beside(tmp_path), 'eagle') == newest


def test_a_folder_of_one_drafter_may_be_given(tmp_path):
    glance = network(tmp_path / 'drafters' / 'glance', model_type='glance')
    assert all_weights(glance) == {'glance': glance}
    published = network(tmp_path / 'openvla-eagle', model_type='llama')
    assert all_weights(published) == {'eagle': published}


@pytest.mark.parametrize('text', ['', '[]', '{', '{"model_type": 3}', '{"model_type": []}'])
def test_a_configuration_that_is_none_is_left_to_who_reads_the_weights(tmp_path, text):
    network(tmp_path / 'drafter')
    (tmp_path / 'drafter' / 'config.json').write_text(text)
    assert list(all_weights(tmp_path / 'drafter')) == ['eagle']


def test_what_is_not_there_holds_nothing(tmp_path):
    assert all_weights(tmp_path / 'nowhere') == all_weights(beside(tmp_path)) == {}

"""The small tokenizer: short prompts, any text, action tokens at the end."""

import pytest

from specvla_ros.openvla.prompt import prompt_ids
from specvla_ros.training.tokenizer import BOS_ID, build_tokenizer, prompt_text

INSTRUCTIONS = [
    f'pick up the {name} and place it in the basket'
    for name in ('alphabet soup', 'cream cheese', 'salad dressing', 'bbq sauce', 'ketchup',
                 'tomato sauce', 'butter', 'milk', 'chocolate pudding', 'orange juice')]


@pytest.fixture(scope='module')
def tokenizer():
    return build_tokenizer([prompt_text(text) for text in INSTRUCTIONS], text_tokens=384)


def test_prompts_of_the_suite_are_short_and_come_back(tokenizer):
    for instruction in INSTRUCTIONS:
        ids = prompt_ids(tokenizer, BOS_ID, instruction)
        assert ids[0] == BOS_ID
        assert 3 <= len(ids) <= 10
        assert tokenizer.decode(ids[1:]) == prompt_text(instruction)


@pytest.mark.parametrize('text', ['Zürich?', 'öffne die Tür 戸', 'x' * 50, '<action_3> </s>'])
def test_any_text_comes_back_and_holds_no_action_token(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert max(ids) < 384


def test_action_tokens_end_the_vocabulary(tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == 384 + 256
    assert tokenizer.convert_ids_to_tokens([384, 639]) == ['<action_0>', '<action_255>']


def test_the_same_prompts_give_the_same_tokenizer(tokenizer):
    again = build_tokenizer([prompt_text(text) for text in reversed(INSTRUCTIONS)], 384)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_few_prompts_still_fill_the_vocabulary():
    tokenizer = build_tokenizer(['a b'], text_tokens=384)
    assert len(tokenizer) == 640
    assert max(tokenizer('a b', add_special_tokens=False).input_ids) < 384


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match='text_tokens is 100, must be at least 259'):
        build_tokenizer(['a'], text_tokens=100)

import json

import pytest
from transformers import PreTrainedTokenizerFast

from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.errors import CheckpointError
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.prompt import load_tokenizer, prompt_ids

PUBLISHED = OpenVLAConfig.from_dict(
    {
        'model_type': 'openvla',
        'vision_backbone_id': 'dinosiglip-vit-so-224px',
        'text_config': {'vocab_size': 32064},
    }
)


def words(tokenizer, ids):
    return [tokenizer.convert_ids_to_tokens(i) for i in ids]


@pytest.fixture
def llama_like(make_tokenizer):
    """A tokenizer that has Llama's size, its empty piece, and OpenVLA's <PAD>."""
    tokenizer = make_tokenizer(32000, {29871: '▁'})
    tokenizer.add_special_tokens(['<PAD>'])
    return tokenizer


def test_prompt_is_bos_and_the_question_in_lower_case(published):
    model = OpenVLA.from_pretrained(published.folder)
    ids = model.prompt_ids('Pick up the MILK')
    assert words(model.tokenizer, ids.tolist()) == (
        '<s> In : What action should the robot take to pick up the milk ? \n Out :'.split(' ')
    )


def test_llama_s_empty_token_ends_the_prompt(llama_like, tmp_path):
    llama_like.save(str(tmp_path / 'tokenizer.json'))
    tokenizer = load_tokenizer(tmp_path, PUBLISHED)
    ids = prompt_ids(tokenizer, 1, 'pick up the milk')
    assert ids[-1] == 29871
    assert words(tokenizer, ids[-3:-1]) == ['Out', ':']


def test_llama_s_empty_token_is_not_doubled(llama_like):
    llama_like.post_processor = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=llama_like)

    class EndsInEmpty:
        backend_tokenizer = tokenizer.backend_tokenizer
        convert_ids_to_tokens = tokenizer.convert_ids_to_tokens

        def __len__(self):
            return len(tokenizer)

        def __call__(self, text, **options):
            encoding = tokenizer(text, **options)
            return {**encoding, 'input_ids': [*encoding['input_ids'], 29871]}

    assert prompt_ids(EndsInEmpty(), 1, 'pick up the milk').count(29871) == 1


def test_id_29871_means_nothing_in_another_vocabulary(make_tokenizer):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(32000))
    assert 29871 not in prompt_ids(tokenizer, 1, 'pick up the milk')


@pytest.mark.parametrize('instruction', ['', '  \n', None])
def test_an_empty_instruction_is_refused(published, instruction):
    model = OpenVLA.from_pretrained(published.folder)
    with pytest.raises(ValueError, match='instruction is .* must be a sentence'):
        model.prompt_ids(instruction)


def test_a_word_without_id_is_named(published):
    model = OpenVLA.from_pretrained(published.folder)
    with pytest.raises(ValueError, match="no id for 'juggle'"):
        model.prompt_ids('Juggle the milk')


@pytest.mark.parametrize('n_tokens', [31999, 32001])
def test_a_vocabulary_that_is_not_the_model_s_is_refused(make_tokenizer, tmp_path, n_tokens):
    make_tokenizer(n_tokens).save(str(tmp_path / 'tokenizer.json'))
    with pytest.raises(CheckpointError, match=f'has {n_tokens} tokens .* must have 32000'):
        load_tokenizer(tmp_path, PUBLISHED)


def test_more_added_tokens_than_padding_rows_are_refused(llama_like, tmp_path):
    llama_like.add_special_tokens([f'<extra {i}>' for i in range(64)])
    llama_like.save(str(tmp_path / 'tokenizer.json'))
    with pytest.raises(CheckpointError, match='has 32000 tokens and 32065 with'):
        load_tokenizer(tmp_path, PUBLISHED)


def test_a_missing_bos_is_refused(published):
    published.config['text_config']['bos_token_id'] = 5000
    with pytest.raises(CheckpointError, match='no token 5000'):
        OpenVLA.from_pretrained(published.write())


def test_a_tokenizer_that_can_t_encode_a_prompt_is_refused(published):
    path = published.folder / 'tokenizer.json'
    content = json.loads(path.read_text())
    vocabulary = content['model']['vocab']
    vocabulary['robotic'] = vocabulary.pop('robot')
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="can't encode a prompt: .* no id for 'robot'"):
        OpenVLA.from_pretrained(published.folder)


def test_a_missing_or_broken_tokenizer_is_refused(published):
    path = published.folder / 'tokenizer.json'
    path.write_text('{"version": ')
    with pytest.raises(CheckpointError, match=r'tokenizer\.json is not a usable tokenizer'):
        OpenVLA.from_pretrained(published.folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r'has no tokenizer\.json'):
        OpenVLA.from_pretrained(published.folder)

"""
Small files beside ``tokenizer.json``: refuse those that contradict it, or ask for other decoding.

The tokenizer is ``tokenizer.json`` alone, and decoding is greedy. transformers would also read
these; where they say something else, the checkpoint's author saw other prompts or other actions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from .config import OpenVLAConfig
from .json_file import Fields, is_there, read_object, shown

_ADDED, _TOKENIZER = 'added_tokens.json', 'tokenizer_config.json'
_SPECIAL, _GENERATION = 'special_tokens_map.json', 'generation_config.json'
# Values with which greedy decoding stays what it is. Sampling is switched off by OpenVLA's own
# callers, whatever the file says.
_GREEDY: dict[str, tuple[Any, ...]] = {
    'num_beams': (1,), 'num_beam_groups': (1,), 'repetition_penalty': (1,),
    'encoder_repetition_penalty': (1,), 'no_repeat_ngram_size': (0,),
    'encoder_no_repeat_ngram_size': (0,), 'bad_words_ids': (), 'force_words_ids': (),
    'suppress_tokens': (), 'begin_suppress_tokens': (), 'forced_bos_token_id': (),
    'forced_eos_token_id': (), 'sequence_bias': (), 'constraints': (), 'min_length': (0,),
    'min_new_tokens': (0,), 'guidance_scale': (1,), 'penalty_alpha': (0,),
    'diversity_penalty': (0,),
}


def check_tokenizer_content(fields: Fields) -> None:
    """
    Raise CheckpointError for a ``tokenizer.json`` that would end the process, or is ambiguous.

    The library aborts on merges that don't fit a prefix of subwords; no Llama has one.
    """
    model = fields.section('model')
    if model.content.get('type') == 'BPE':
        model.only('continuing_subword_prefix', '')
    vocabulary = model.content.get('vocab')
    if isinstance(vocabulary, dict):
        ids = [number for number in vocabulary.values() if isinstance(number, int)]
        if len(set(ids)) < len(ids):
            twice = next(number for number in ids if ids.count(number) > 1)
            raise model.error(f'vocab has two tokens of id {twice}: which one is meant?')


def check_tokenizer_files(
    folder: Path, tokenizer: PreTrainedTokenizerFast, config: OpenVLAConfig
) -> None:
    """Raise CheckpointError, naming file and key, for what contradicts tokenizer or decoding."""
    bos = config.text_config.bos_token_id
    if (fields := _fields(folder / _ADDED)) is not None:
        for token in fields.content:
            _check_token(fields, token, fields.integer(token, least=0), tokenizer)
    if (fields := _fields(folder / _TOKENIZER)) is not None:
        fields.only('add_bos_token', True, why='a prompt begins with BOS')
        fields.only('add_eos_token', False, why='a prompt does not end with EOS')
        fields.text('tokenizer_class', None)
        _check_bos(fields, bos, tokenizer)
        decoder = fields.section('added_tokens_decoder')
        for number in decoder.content:
            token = decoder.section(number).text('content')
            if not number.isascii() or not number.isdigit() or len(number) > 9:
                raise decoder.error(f'has {shown(number)}, must be ids')
            _check_token(fields, token, int(number), tokenizer)
    if (fields := _fields(folder / _SPECIAL)) is not None:
        _check_bos(fields, bos, tokenizer)
    if (fields := _fields(folder / _GENERATION)) is not None:
        fields.only('bos_token_id', bos, why="config.json's")
        for key, values in _GREEDY.items():
            fields.only(key, *values, why='actions are decoded greedily')


def _fields(path: Path) -> Fields | None:
    """Content of a file; None if it isn't there."""
    return Fields(read_object(path), str(path)) if is_there(path) else None


def _check_bos(fields: Fields, bos: int, tokenizer: PreTrainedTokenizerFast) -> None:
    value = fields.content.get('bos_token')
    if isinstance(value, dict):
        value = fields.section('bos_token').text('content')
    elif value is not None:
        value = fields.text('bos_token')
    if value is not None and tokenizer.convert_ids_to_tokens(bos) != value:
        fields.refuse('bos_token', f'{tokenizer.convert_ids_to_tokens(bos)!r}, id {bos} of '
                      'tokenizer.json')


def _check_token(
    fields: Fields, token: str, number: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    """A token must have the id that a file gives it."""
    found = tokenizer.get_vocab().get(token)
    if found != number:
        where = 'which tokenizer.json does not have' if found is None else \
            f'which tokenizer.json gives id {found}'
        raise fields.error(f'token {shown(token)} has id {number}, {where}: the vocabularies are '
                           'not the same')

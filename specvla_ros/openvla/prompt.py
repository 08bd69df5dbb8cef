"""Instruction → token ids, and the checks that a tokenizer belongs to its model."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from .config import OpenVLAConfig
from .errors import CheckpointError, one_line
from .json_file import Fields, read_object
from .tokenizer_files import check_tokenizer_content, check_tokenizer_files

PROMPT = 'In: What action should the robot take to {}?\nOut:'
# Llama's word-boundary piece alone. OpenVLA was trained with it after 'Out:'; its tokenizer
# leaves it off at the end of a text, so it is appended.
_LLAMA_EMPTY_ID, _LLAMA_EMPTY_PIECE = 29871, '▁'


def load_tokenizer(folder: Path, config: OpenVLAConfig) -> PreTrainedTokenizerFast:
    """
    Tokenizer of a checkpoint folder (``tokenizer.json``).

    Raises CheckpointError if there is none, or if it does not fit the model.
    """
    path = folder / 'tokenizer.json'
    if not path.exists():
        raise CheckpointError(f'{folder} has no {path.name}: no tokenizer to load')
    try:
        check_tokenizer_content(Fields(read_object(path), str(path)))
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as error:  # tokenizers raises bare Exception for a file it can't parse
        reason = one_line(error).removeprefix(str(path)).lstrip(': ')
        raise CheckpointError(f'{path} is not a usable tokenizer: {reason}') from error
    check_tokenizer(tokenizer, config, str(path))
    check_tokenizer_files(folder, tokenizer, config)
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, config: OpenVLAConfig, name: str) -> None:
    """
    Raise CheckpointError unless the tokenizer fits the model.

    Its vocabulary must fill the embedding up to the rows of padding (so that the action ids are
    where the model has them; added tokens such as Llama's ``<PAD>`` may lie in the padding), it
    must know the BOS id, and it must turn a prompt into ids.
    """
    rows, base = config.text_config.vocab_size, config.action_vocab_size
    if base not in (tokenizer.vocab_size, len(tokenizer)) or len(tokenizer) > rows:
        raise CheckpointError(
            f'{name} has {tokenizer.vocab_size} tokens and {len(tokenizer)} with the added '
            f'ones, must have {base}: {rows} rows of the model less {config.pad_to_multiple_of} '
            'of padding'
        )
    bos = config.text_config.bos_token_id
    if bos is None or tokenizer.convert_ids_to_tokens(bos) is None:
        raise CheckpointError(f'{name} has no token {bos}, which config.json calls BOS')
    try:
        prompt_ids(tokenizer, bos, 'pick up')
    except ValueError as error:
        raise CheckpointError(f"{name} can't encode a prompt: {error}") from error


def prompt_ids(tokenizer: PreTrainedTokenizerFast, bos: int, instruction: str) -> list[int]:
    """
    Ids of the prompt that asks for an instruction, BOS first.

    Raises ValueError if the instruction is empty, or has a word the tokenizer has no id for.
    """
    if not isinstance(instruction, str) or not instruction.strip():
        raise ValueError(
            f"instruction is {instruction!r}, must be a sentence such as 'pick up the milk'"
        )
    text = PROMPT.format(instruction.lower())
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoding['input_ids']
    if not ids:
        raise ValueError(f'the tokenizer turns {text!r} into no ids at all')
    unknown = _unknown_id(tokenizer)
    if unknown is not None and unknown in ids:
        start, end = encoding['offset_mapping'][ids.index(unknown)]
        raise ValueError(
            f'the tokenizer has no id for {text[start:end]!r} in {text!r}: use words that this '
            'checkpoint was trained on'
        )
    if ids[-1] != _LLAMA_EMPTY_ID and _is_llama(tokenizer):
        ids.append(_LLAMA_EMPTY_ID)
    return [bos, *ids]


def _unknown_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Id that stands for what a tokenizer can't encode; ``tokenizer.json`` alone knows it."""
    model = tokenizer.backend_tokenizer.model
    unknown = getattr(model, 'unk_token', None)
    return None if unknown is None else tokenizer.backend_tokenizer.token_to_id(unknown)


def _is_llama(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether id 29871 is what it is in Llama's vocabulary."""
    return (
        len(tokenizer) > _LLAMA_EMPTY_ID
        and tokenizer.convert_ids_to_tokens(_LLAMA_EMPTY_ID) == _LLAMA_EMPTY_PIECE
    )

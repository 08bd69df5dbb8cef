"""
A small tokenizer whose vocabulary ends in the action tokens.

Byte-level BPE that may merge across spaces: trained on the prompts themselves, it turns the words
that every prompt has into one token, which makes the prompt of the target short. Any other text
still goes in, at worst byte by byte.
"""

from collections.abc import Iterable
import json

from tokenizers import AddedToken, decoders, models, pre_tokenizers, Tokenizer, trainers
from transformers import PreTrainedTokenizerFast

from specvla_ros.openvla.prompt import PROMPT

PAD, BOS, EOS = '<pad>', '<s>', '</s>'
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
_ACTION = '<action_{}>'
N_BYTES = 256


def prompt_text(instruction: str) -> str:
    """Text of the prompt that asks for an instruction."""
    return PROMPT.format(instruction.lower())


def build_tokenizer(
    prompts: Iterable[str], text_tokens: int = 360, action_tokens: int = 256
) -> PreTrainedTokenizerFast:
    """
    Train a tokenizer on prompts; the `action_tokens` ids from `text_tokens` on are actions.

    `prompts` are whole prompts (template and instruction); `text_tokens` counts three special
    tokens, 256 bytes and the merges. No text ever turns into an action token.

    :raises ValueError: `text_tokens` leaves no room for the bytes
    """
    if text_tokens < 3 + N_BYTES:
        raise ValueError(
            f'text_tokens is {text_tokens}, must be at least {3 + N_BYTES}: three special tokens '
            'and the 256 bytes'
        )
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=text_tokens,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(sorted(set(prompts)), trainer)
    vocabulary = trained.get_vocab()
    # Few prompts run out of pairs to merge: names that no text reaches fill the rest.
    for index in range(len(vocabulary), text_tokens):
        vocabulary[f'<unused_{index}>'] = index
    for index in range(action_tokens):
        vocabulary[_ACTION.format(index)] = text_tokens + index
    merges = _merges(trained)
    full = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    full.pre_tokenizer = trained.pre_tokenizer
    full.decoder = decoders.ByteLevel()
    full.add_special_tokens([AddedToken(token, special=True) for token in (PAD, BOS, EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=full, pad_token=PAD, bos_token=BOS, eos_token=EOS
    )


def is_built_here(tokenizer: PreTrainedTokenizerFast, first_action: int) -> bool:
    """Whether `build_tokenizer` made this tokenizer: it names the action tokens."""
    return tokenizer.convert_ids_to_tokens(first_action) == _ACTION.format(0)


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Merges of a trained BPE, in order; only its JSON form tells them."""
    merges = json.loads(tokenizer.to_str())['model']['merges']
    return [tuple(pair.split(' ')) if isinstance(pair, str) else tuple(pair) for pair in merges]

"""
The Llama that a ``text_config`` describes: its keys are honoured, or refused.

The passes of this package compute a plain Llama: silu, rotary embeddings without scaling over the
whole head, no windows, no shared matrices. A key that says otherwise is refused, and so is one
that isn't known: ignored, it would change hidden states without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TYPE_CHECKING

from huggingface_hub.errors import StrictDataclassError
from transformers.models.llama.configuration_llama import LlamaConfig

from .errors import CheckpointError, one_line
from .json_file import Fields

# What the published text_config leaves out: the LlamaConfig of transformers 4.40. Newer
# versions may default otherwise (rms_norm_eps, rope_theta), so every value is spelled out.
LLAMA_2_7B: dict[str, Any] = {
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'num_key_value_heads': None,  # as many as attention heads
    'head_dim': None,  # hidden_size / num_attention_heads
    'hidden_act': 'silu',
    'max_position_embeddings': 2048,
    'initializer_range': 0.02,
    'rms_norm_eps': 1e-6,
    'rope_theta': 10000.0,
    'attention_bias': False,
    'mlp_bias': False,
    'pad_token_id': None,
    'bos_token_id': 1,
    'eos_token_id': 2,
}
# More than any Llama has: a config.json must not be able to ask for a year of building.
MOST_WIDTH, MOST_LAYERS, MOST_HEADS, MOST_POSITIONS, MOST_TOKENS = 2**17, 512, 1024, 2**17, 2**22
# Values with which a key changes nothing. Rotary keys: see `rotary_base`.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    'hidden_act': ('silu',),
    'pretraining_tp': (1,),
    'attention_dropout': (0,),
    'tie_word_embeddings': (False,),
    'sliding_window': (),
    'use_sliding_window': (False,),
    'quantization_config': (),
    'add_cross_attention': (False,),
    'is_encoder_decoder': (False,),
    'pruned_heads': ({},),
}
_WHY = {
    'quantization_config': 'stored weights must be floating point; --quantization does it on load',
    'tie_word_embeddings': 'the layout stores lm_head of its own',
}
_ROTARY = ('rope_theta', 'rope_scaling', 'rope_parameters', 'partial_rotary_factor')
_ROTARY_INSIDE = ('type', 'rope_type', 'rope_theta', 'partial_rotary_factor')
# What transformers writes into every configuration and no forward pass reads.
BOOKKEEPING = frozenset("""
    architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens
    chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id id2label is_decoder label2id length_penalty max_length
    min_length model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_scores prefix problem_type
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p
    use_bfloat16 use_cache
""".split())


# A keyword of every configuration that transformers declares nowhere.
SDPA: dict[str, Any] = {'attn_implementation': 'sdpa'}
if TYPE_CHECKING:
    class TextConfig(LlamaConfig):
        """A Llama's configuration with nothing left open, as ``llama_config`` makes it."""

        num_key_value_heads: int
        head_dim: int
        bos_token_id: int
        rope_parameters: dict[str, Any]
else:
    TextConfig = LlamaConfig


def llama_config(text_config: object, file: str = 'config.json') -> TextConfig:
    """
    Spell out the Llama a ``text_config`` means; absent keys are those of the published 7B.

    Raises CheckpointError, naming the key, for what is no Llama, or one that isn't computed here.
    """
    fields = Fields(text_config, file, 'text_config')
    fields.text('model_type', 'llama', allowed=('llama',))
    for key in ('torch_dtype', 'dtype', 'transformers_version'):
        fields.text(key, None)
    theta = rotary_base(fields, LLAMA_2_7B['rope_theta'])
    check_plain(fields, {'vocab_size', *LLAMA_2_7B})
    try:
        settings = _settings(fields)
    except CheckpointError as error:
        reason = str(error).removeprefix(f'{file}: text_config ')
        raise fields.error(f'is no Llama: {reason}') from error
    try:
        return TextConfig(
            rope_parameters={'rope_type': 'default', 'rope_theta': theta},
            use_cache=False,
            tie_word_embeddings=False,
            **settings,
            **SDPA,
        )
    except (StrictDataclassError, ValueError, TypeError) as error:
        reason = one_line(error)
        raise fields.error(f'is no Llama: {reason}') from error


def _settings(fields: Fields) -> dict[str, Any]:
    """Each key of LLAMA_2_7B and the vocabulary, of its type, and fitting together."""
    known = LLAMA_2_7B
    tokens = fields.integer('vocab_size', 32064, most=MOST_TOKENS)
    hidden = fields.integer('hidden_size', known['hidden_size'], most=MOST_WIDTH)
    heads = fields.integer('num_attention_heads', known['num_attention_heads'], most=MOST_HEADS)
    groups = fields.integer('num_key_value_heads', None, most=MOST_HEADS)
    head_dim = fields.integer('head_dim', None, most=MOST_WIDTH)
    pad = fields.integer('pad_token_id', None, least=-1, most=tokens - 1)
    if head_dim is None and hidden % heads:
        fields.refuse('hidden_size', f'a multiple of num_attention_heads, {heads}')
    if (head_dim or hidden // heads) % 2:
        raise fields.error(f'head_dim is {head_dim or hidden // heads}, must be even: rotary '
                           'embeddings turn pairs')
    if heads % (groups or heads):
        fields.refuse('num_key_value_heads', f'a divisor of num_attention_heads, {heads}')
    return {
        'vocab_size': tokens,
        'hidden_size': hidden,
        'intermediate_size': fields.integer(
            'intermediate_size', known['intermediate_size'], most=MOST_WIDTH),
        'num_hidden_layers': fields.integer(
            'num_hidden_layers', known['num_hidden_layers'], most=MOST_LAYERS),
        'num_attention_heads': heads,
        'num_key_value_heads': groups,
        'head_dim': head_dim,
        'hidden_act': 'silu',
        'max_position_embeddings': fields.integer(
            'max_position_embeddings', known['max_position_embeddings'], most=MOST_POSITIONS),
        'initializer_range': fields.number(
            'initializer_range', known['initializer_range'], above=0),
        'rms_norm_eps': fields.number('rms_norm_eps', known['rms_norm_eps'], above=0, most=1),
        'attention_bias': fields.flag('attention_bias', known['attention_bias']),
        'mlp_bias': fields.flag('mlp_bias', known['mlp_bias']),
        'pad_token_id': None if pad == -1 else pad,  # both mean: there is none
        'bos_token_id': fields.integer('bos_token_id', known['bos_token_id'], least=0),
        'eos_token_id': fields.integer(
            'eos_token_id', known['eos_token_id'], least=0, most=tokens - 1),
    }


def check_plain(fields: Fields, honoured: Collection[str]) -> None:
    """
    Refuse what makes a Llama another one than is computed here; ``honoured`` is read elsewhere.

    Raises CheckpointError naming the key.
    """
    for key, values in PLAIN.items():
        fields.only(key, *values, why=_WHY.get(key, ''))
    layers = fields.items('layer_types', [])
    if any(kind != 'full_attention' for kind in layers):
        fields.refuse('layer_types', "'full_attention' for every layer, or absent")
    fields.known({*honoured, *PLAIN, *_ROTARY, 'layer_types'}, BOOKKEEPING)


def rotary_base(fields: Fields, default: float) -> float:
    """
    Base of the rotary embeddings, from any of the spellings there are.

    ``rope_theta`` (published), ``rope_scaling`` (with 'type' or 'rope_type') and transformers 5's
    ``rope_parameters``. Raises CheckpointError for scaled or partial ones, and for two bases: no
    OpenVLA has any.
    """
    fields.only('partial_rotary_factor', 1)
    found = {}
    if (theta := fields.number('rope_theta', None, above=0)) is not None:
        found['rope_theta'] = theta
    for key in ('rope_scaling', 'rope_parameters'):
        inside = fields.section(key)
        for name in ('type', 'rope_type'):
            if inside.content.get(name) not in (None, 'default'):
                inside.refuse(name, "'default' or absent",
                              'scaled rotary embeddings are not computed here')
        inside.only('partial_rotary_factor', 1)
        inside.known(_ROTARY_INSIDE)
        if (theta := inside.number('rope_theta', None, above=0)) is not None:
            found[f'{key} rope_theta'] = theta
    if len(set(found.values())) > 1:
        what = ', '.join(f'{name} {value:g}' for name, value in found.items())
        raise fields.error(f'has {what}, must be one base')
    return next(iter(found.values()), default)

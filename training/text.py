"""The demo's tokenizer and text encoder, untrained: a word-level T5 tokenizer and a very small T5 encoder.

The encoder first learns the meaning of the words from captions alone. Then it is trained together with the transformer.
"""

import torch
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from training.words import PUNCTUATION, vocabulary

MAX_TOKENS = 48
WIDTH = 64


def build_tokenizer() -> T5TokenizerFast:
    """Every known word is one token. Any other word becomes two tokens: the longest known word at its beginning, or "▁"
    if there is none, and <unk>. For example, "circles" becomes "circle" and <unk>.
    """
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in vocabulary()]
    pieces += [(mark, -3.0) for mark in PUNCTUATION]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=MAX_TOKENS)


def build_encoder(tokens: int) -> T5EncoderModel:
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=tokens,
            d_model=WIDTH,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
            tie_word_embeddings=True,
        )
    )
    look_at_neighbours(encoder)
    return encoder


@torch.no_grad()
def look_at_neighbours(encoder: T5EncoderModel) -> None:
    """Initialise three heads to attend to nearby words, because these show which object a colour belongs to."""
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # [buckets, heads]
    before, after = 0, bias.shape[0] // 2
    bias[before + 1, 0] += 4
    bias[after + 1, 1] += 4
    bias[before + 2, 2] += 3
    bias[after + 2, 2] += 3


def token_ids(tokenizer: T5TokenizerFast, prompts: list[str], length: int = MAX_TOKENS) -> torch.Tensor:
    """[B, length], padded and truncated like in the stock pipeline."""
    ids = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return torch.as_tensor(ids)

"""Trains the text encoder to understand captions before the transformer needs it, for example which colour belongs to
the object and which to the background.

Every output of the encoder must predict every attribute through one linear layer, which is discarded afterwards.
"""

import numpy as np
import torch
import torch.nn.functional as F
from transformers import T5EncoderModel, T5TokenizerFast

from training.dataset import held_out
from training.shapes import COLORS, MOTIONS, SHAPES, SIZES, Thing, sample_scene
from training.text import WIDTH, token_ids
from training.words import AT_WORDS, caption, place_of, reserved

SEED = 5
SECOND = (tuple(COLORS), SHAPES, ("behind", "in front"))
NOTHING = ("none",)
PLACES = tuple(AT_WORDS)
CHOICES = (tuple(COLORS), tuple(COLORS), MOTIONS, SHAPES, tuple(SIZES), PLACES, *(NOTHING + each for each in SECOND))


def batch(tokenizer: T5TokenizerFast, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, L] token ids and [B, 9] attributes as indexes into `CHOICES`."""
    rng = np.random.default_rng((SEED, step))
    scenes = [s for s in (sample_scene(rng, 49, two=0.25) for _ in range(size)) if not held_out(s)]
    drawn = [(s, text) for s in scenes if not reserved(text := caption(s, rng))]
    said = [(s.color, s.background, s.motion, s.shape, s.size, place_of(s), *_second(s.other)) for s, _ in drawn]
    labels = [[names.index(value) for names, value in zip(CHOICES, row, strict=True)] for row in said]
    return token_ids(tokenizer, [text for _, text in drawn]), torch.tensor(labels)


def _second(thing: Thing | None) -> tuple[str, str, str]:
    if thing is None:
        return "none", "none", "none"
    return thing.color, thing.shape, "in front" if thing.in_front else "behind"


def teach(encoder: T5EncoderModel, tokenizer: T5TokenizerFast, steps: int, peak: float = 2e-3, size: int = 64) -> None:
    """Train the encoder in place for `steps` batches of up to `size` captions. The loss is the cross entropy of every
    attribute at every token, predicted from the encoder's outputs [B, L, WIDTH].
    """
    torch.manual_seed(SEED)
    heads = torch.nn.Linear(WIDTH, sum(len(names) for names in CHOICES))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=peak, betas=(0.9, 0.99))
    right = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 50, (steps - step) / (0.5 * steps))
        ids, labels = batch(tokenizer, step, size)
        told = heads(encoder(ids)[0]).split([len(names) for names in CHOICES], dim=-1)  # each [B, L, choices]
        loss = torch.zeros(())
        for part, label in zip(told, labels.T, strict=True):
            loss = loss + F.cross_entropy(part.transpose(1, 2), label[:, None].expand(-1, ids.shape[1]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        right.append([(p[:, 0].argmax(-1) == y).float().mean().item() for p, y in zip(told, labels.T, strict=True)])
        if (step + 1) % 100 == 0:
            print(f"teach {step + 1} right {np.round(np.mean(right[-50:], axis=0), 3)}", flush=True)

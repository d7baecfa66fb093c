"""Train the demo model: `python -m training`, some hours on a CPU core.

All results are kept in `.cache/demo-training`, and a later run resumes there. Each of the three trainings (autoencoder,
transformer, decoder) resumes from its last checkpoint, and the encoding of the latents resumes at the first size that
is incomplete. Training the text encoder takes only minutes; if it was interrupted, it starts again. The latents and the
decoder are computed again if the weights or the videos that they depend on have changed. If other programs use the
machine, one thread (OMP_NUM_THREADS=1) is several times faster than two threads. `python -m training export` only
exports the results so far.
"""

import sys
from pathlib import Path

import torch

from training import dataset, loop, train_decoder, train_transformer, train_vae
from training.export import export_image_to_video, export_text_to_video
from training.teach import teach

CACHE = Path(".cache/demo-training")
WEIGHTS = Path(__file__).parent.parent / "weights"
LESSONS = 2500


def scaling_factor(data: dict[dataset.Bucket, dataset.Clips]) -> float:
    """The reciprocal of the latents' standard deviation."""
    return 1 / data[dataset.BUCKETS[0]].latents[:500].float().std().item()


def untrained() -> train_transformer.Model:
    """An untrained transformer together with a text encoder that has been trained on captions."""
    model = train_transformer.build(32)
    file = CACHE / "encoder.pt"
    if not file.exists():
        teach(model.encoder, model.tokenizer, LESSONS)
        loop.keep(model.encoder.state_dict(), file)
    model.encoder.load_state_dict(torch.load(file))
    return train_transformer.build(32, start_from=model.weights())


def main(train_more: bool) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    vae = train_vae.train(CACHE, train_vae.STEPS) if train_more else train_vae.trained(CACHE)
    data = dataset.load(vae, CACHE)
    scale = scaling_factor(data)
    steps = train_transformer.STEPS if train_more else 0
    start = untrained() if train_more else train_transformer.build(32)
    model = train_transformer.train(start, data, scale, CACHE, steps)
    model = train_transformer.build(32, start_from=model.average)
    vae = train_decoder.train(vae, model, scale, CACHE, train_decoder.STEPS if train_more else 0)
    text_only = train_transformer.build(16, start_from=model.weights())
    export_text_to_video(vae, text_only, scale, WEIGHTS / "demo")
    export_image_to_video(model, WEIGHTS / "demo", WEIGHTS / "demo-i2v")


if __name__ == "__main__":
    main(train_more="export" not in sys.argv[1:])

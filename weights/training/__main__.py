"""Make the demo model: `python -m weights.training`, about an hour on two idle CPU cores.

Knows: the order of the steps. Every step leaves a checkpoint in `.cache/demo-training` and is resumed from there.
On a machine that does other work as well, OMP_NUM_THREADS=1 is several times faster than two threads.
`python -m weights.training export` only exports what is there, however far it got.
"""

import dataclasses
import sys
from pathlib import Path

from weights.training import dataset, train_vae
from weights.training.export import export_image_to_video, export_text_to_video
from weights.training.teach import teach
from weights.training.train_transformer import Model, Stage, build, train

CACHE = Path(".cache/demo-training")
WEIGHTS = Path(__file__).parent.parent
LESSONS = 1000
TEXT = Stage("t2v", steps=2000, peak=1e-3, decay=0.0, pictures=0.0, object_strength=0.0)
BOTH = Stage("both", steps=8000, peak=1e-3, decay=0.2, pictures=0.35, object_strength=1.0)


def scaling_factor(data: dict[dataset.Bucket, dataset.Clips]) -> float:
    """One over the deviation of the latents."""
    sample = next(iter(data.values())).latents.float()
    return 1 / sample.std().item()


def main(train_more: bool) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    vae = train_vae.train(CACHE) if train_more else train_vae.trained(CACHE)
    data = dataset.load(vae, CACHE)
    scale = scaling_factor(data)

    def run(model: Model, stage: Stage) -> Model:
        return train(model, data, scale, CACHE, stage if train_more else dataclasses.replace(stage, steps=0))

    first = build(16)
    if train_more and not (CACHE / f"{TEXT.name}.pt").exists():
        teach(first.encoder, first.tokenizer, LESSONS)
        first = build(16, start_from=first.weights())
    start = run(first, TEXT)
    both = run(build(32, start_from=start.average), BOTH)
    export_text_to_video(vae, build(16, start_from=both.average), scale, WEIGHTS / "demo")
    export_image_to_video(both, WEIGHTS / "demo", WEIGHTS / "demo-i2v")


if __name__ == "__main__":
    main(train_more="export" not in sys.argv[1:])

"""Whether SAELens reads what `save_sae` writes: the same codes and reconstructions of the same activations.

Trains a small SAE with each encoder that is exported, and fits one to a dictionary of `sae_gap.learn`; saves each, loads
it by SAELens, and prints the largest differences over the largest value. One beyond 1e-5 is exit code 1.

SAELens brings PyTorch: install it in an environment of its own, by pip install 'sae_gap[peer_saes]'.

  python -m sae_gap peer_saelens
"""

import pathlib
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
from absl import flags, logging

import sae_gap
from benchmarks import cli
from sae_gap import catalogue
from sae_gap.core.types import Model

TOLERANCE = 1e-5
WIDTH, SPARSITY = 160, 8

FLAGS = flags.FlagValues()
flags.DEFINE_integer("seed", 0, "Seed of the data and of the SAEs.", lower_bound=0, flag_values=FLAGS)


def models(task: sae_gap.Task, seed: int) -> Iterator[tuple[str, Model]]:
    """An SAE with each encoder that is exported, barely trained, and one of a learned dictionary."""
    for name, kind in catalogue.saes().items():
        if "exported" in vars(kind):
            learner = catalogue.tuned_sae(name, sparsity=SPARSITY, input_dim=task.input_dim, num_steps=3)
            yield name, sae_gap.fit(learner, [task], [seed])[0].end.model
    yield "learn", sae_gap.learn(task.train.signals, WIDTH, SPARSITY, seed=seed, visits=10).sae(epochs=2).model


def main() -> None:
    try:
        import torch
        from sae_lens import SAE
    except ImportError as error:
        raise cli.UsageError(f"{error.name} is not installed; do so by pip install 'sae_gap[peer_saes]'.") from None
    setting = sae_gap.Setting(num_latents=WIDTH, sparsity=SPARSITY, num_samples=4_000, input_dim=48, seed=FLAGS.seed)
    task = sae_gap.draw(setting)
    given, wrong = np.array(task.ood.signals[:500]), []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models(task, FLAGS.seed):
            sae_gap.save_sae(model, path := pathlib.Path(folder) / name)
            mine, theirs = sae_gap.load_sae(path), SAE.load_from_disk(path)
            codes = mine.encode(given)
            with torch.no_grad():
                latents = theirs.encode(torch.from_numpy(given))
                pairs = {"codes": (codes, latents), "reconstruction": (mine.decode(codes), theirs.decode(latents))}
            found = {}
            for what, (one, other) in pairs.items():
                values = np.asarray(one)
                found[what] = float(np.abs(values - other.numpy()).max() / max(np.abs(values).max(), 1e-30))
            print(f"{name:20} as {theirs.cfg.architecture():18} " + "  ".join(f"{k} {v:.1e}" for k, v in found.items()))
            wrong += [name] if not max(found.values()) <= TOLERANCE or not np.any(codes) else []
    if wrong:
        logging.error("differs, or has no code: %s", ", ".join(wrong))
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, FLAGS)

"""TopK SAEs that other libraries train on activations of your own, to be measured beside this suite's.

Trains on the part that `Activations.split` gives for training, as `train_real` does, and leaves each library's own folder in
<results_dir>/peer_saes/, which `measure_sae` reads. SAELens and dictionary_learning
train by their own trainers. The trainer of sparsify takes a language model alone, so that its coder is trained here on the
loss and with the steps of that trainer, by Adam. Learning rates and auxiliary losses are each library's defaults for this
width; rates warm up over a tenth of the steps.

The libraries bring PyTorch: install them in an environment of its own, by pip install 'sae_gap[peer_saes]'.

  python -m sae_gap peer_saes --activations=results/record/SmolLM2-135M-Instruct.Q4_1-bbc/block10
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags, logging

from benchmarks import cli
from benchmarks.real import training_flags
from sae_gap.data.activations import open_activations

NAME = "peer_saes"

FLAGS = flags.FlagValues()
training_flags.define(FLAGS)


def batches(rows: np.ndarray, steps: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """So many batches, each row once before any comes again, in a fresh order each time."""
    rng, left = np.random.default_rng(seed), np.zeros(0, int)
    for _ in range(steps):
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(len(rows))])
        yield rows[left[:size]]
        left = left[size:]


def _saelens(rows: np.ndarray, steps: int, folder: pathlib.Path) -> None:
    import torch
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sizes: dict[str, Any] = {"d_in": rows.shape[1], "d_sae": FLAGS.width, "k": FLAGS.sparsity}
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes))
    length = {"total_training_samples": steps * FLAGS.batch_size, "train_batch_size_samples": FLAGS.batch_size}
    config = SAETrainerConfig(**length, lr_end=3e-5, lr_warm_up_steps=steps // 10)
    provider = (torch.from_numpy(batch) for batch in batches(rows, steps, FLAGS.batch_size, FLAGS.seed))
    SAETrainer(config, sae, provider).fit().save_inference_model(folder)


def _dictionary_learning(rows: np.ndarray, steps: int, folder: pathlib.Path) -> None:
    import torch
    from dictionary_learning.trainers.top_k import TopKTrainer

    warm = steps // 10
    named: dict[str, Any] = {"layer": 0, "lm_name": "activations", "seed": FLAGS.seed, "device": "cpu"}
    rates = {"warmup_steps": warm, "threshold_start_step": warm}
    trainer = TopKTrainer(steps, rows.shape[1], FLAGS.width, FLAGS.sparsity, **named, **rates)
    for step, batch in enumerate(batches(rows, steps, FLAGS.batch_size, FLAGS.seed)):
        trainer.update(step, torch.from_numpy(batch))
    folder.mkdir(parents=True)
    torch.save(trainer.ae.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer.config}))


def _sparsify(rows: np.ndarray, steps: int, folder: pathlib.Path) -> None:
    import torch
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    sae = SparseCoder(rows.shape[1], SparseCoderConfig(num_latents=FLAGS.width, k=FLAGS.sparsity))
    optimiser = torch.optim.Adam(sae.parameters(), lr=2e-4 / (FLAGS.width / 2**14) ** 0.5)
    warm = max(1, steps // 10)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    for step, batch in enumerate(batches(rows, steps, FLAGS.batch_size, FLAGS.seed)):
        x = torch.from_numpy(batch)
        if step == 0:
            sae.b_dec.data = x.mean(0)
        sae.set_decoder_norm_to_unit_norm()
        sae(x).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        rate.step()
    sae.set_decoder_norm_to_unit_norm()
    sae.save_to_disk(folder)


LIBRARIES: dict[str, Callable[[np.ndarray, int, pathlib.Path], None]] = {
    "saelens": _saelens,
    "dictionary_learning": _dictionary_learning,
    "sparsify": _sparsify,
}
flags.DEFINE_list("libraries", list(LIBRARIES), f"Whose SAEs to train, of {', '.join(LIBRARIES)}.", flag_values=FLAGS)


def main() -> None:
    training_flags.check(FLAGS, "libraries", list(LIBRARIES))
    directory = cli.local_folder(FLAGS.results_dir) / NAME
    with cli.usage():
        train, _ = open_activations(FLAGS.activations, key=FLAGS.key).split()
        rows = train.take(np.arange(train.num_samples))
    taken = [name for name in FLAGS.libraries if (directory / name).exists()]
    if taken:
        raise cli.UsageError(f"{directory / taken[0]} is there already; remove it, or give another --results_dir.")
    steps = max(1, round(FLAGS.epochs * len(rows) / FLAGS.batch_size))
    try:
        import torch

        for name in FLAGS.libraries:
            torch.manual_seed(FLAGS.seed)
            began = time.process_time()
            LIBRARIES[name](rows, steps, directory / name)
            logging.info("%s: %d steps, %.0f s of the processor", directory / name, steps, time.process_time() - began)
    except ImportError as error:
        raise cli.UsageError(f"{error.name} is not installed; install it by pip install 'sae_gap[peer_saes]'.") from None


if __name__ == "__main__":
    cli.run(main, FLAGS)

"""TopK SAEs that other libraries train on activations of your own, to be measured beside this suite's.

Trains on the part that `Activations.split` gives for training, as `train_real` does, and leaves a folder for each
library, in its own form, in <results_dir>/peer_saes/, which `measure_sae` reads. SAELens and dictionary_learning
train by their own trainers. The trainer of sparsify takes a language model alone, so that its coder is trained here on the
loss and with the steps of that trainer, by Adam. Learning rates and auxiliary losses are each library's defaults for this
width; rates warm up over a tenth of the steps.

The libraries bring PyTorch: install them in an environment of its own, by pip install 'sae_gap[peer_saes]'.

  python -m sae_gap peer_saes --activations=results/real_activations/minilm_layer3.npz
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags, logging

from benchmarks import cli
from sae_gap.data.activations import open_activations

NAME = "peer_saes"

FLAGS = flags.FlagValues()
_ACTIVATIONS = flags.DEFINE_string("activations", None, "File or folder of activations.", flag_values=FLAGS)
_KEY = flags.DEFINE_string("key", None, "Name of the array, where there are several.", flag_values=FLAGS)
_NUM_LATENTS = flags.DEFINE_integer("num_latents", 3072, "Width of the dictionaries.", lower_bound=1, flag_values=FLAGS)
_SPARSITY = flags.DEFINE_integer("sparsity", 32, "Latents a sample.", lower_bound=1, flag_values=FLAGS)
_EPOCHS = flags.DEFINE_float("epochs", 8.0, "Passes over the training rows.", lower_bound=0.01, flag_values=FLAGS)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Rows to a step.", lower_bound=1, flag_values=FLAGS)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights and of the order of the rows.", flag_values=FLAGS)
_RESULTS_DIR = flags.DEFINE_string(
    "results_dir", "results", "Where the folder of this benchmark goes; gs:// and s3:// are buckets.", flag_values=FLAGS
)


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

    sizes: dict[str, Any] = {"d_in": rows.shape[1], "d_sae": _NUM_LATENTS.value, "k": _SPARSITY.value}
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes))
    config = SAETrainerConfig(
        total_training_samples=steps * _BATCH.value,
        train_batch_size_samples=_BATCH.value,
        lr_end=3e-5,
        lr_warm_up_steps=steps // 10,
    )
    provider = (torch.from_numpy(batch) for batch in batches(rows, steps, _BATCH.value, _SEED.value))
    SAETrainer(config, sae, provider).fit().save_inference_model(folder)


def _dictionary_learning(rows: np.ndarray, steps: int, folder: pathlib.Path) -> None:
    import torch
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps,
        rows.shape[1],
        _NUM_LATENTS.value,
        _SPARSITY.value,
        layer=0,
        lm_name="activations",
        warmup_steps=steps // 10,
        threshold_start_step=steps // 10,
        seed=_SEED.value,
        device="cpu",
    )
    for step, batch in enumerate(batches(rows, steps, _BATCH.value, _SEED.value)):
        trainer.update(step, torch.from_numpy(batch))
    folder.mkdir(parents=True)
    torch.save(trainer.ae.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer.config}))


def _sparsify(rows: np.ndarray, steps: int, folder: pathlib.Path) -> None:
    import torch
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    sae = SparseCoder(rows.shape[1], SparseCoderConfig(num_latents=_NUM_LATENTS.value, k=_SPARSITY.value))
    optimiser = torch.optim.Adam(sae.parameters(), lr=2e-4 / (_NUM_LATENTS.value / 2**14) ** 0.5)
    warm = max(1, steps // 10)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    for step, batch in enumerate(batches(rows, steps, _BATCH.value, _SEED.value)):
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
_LIBRARIES = flags.DEFINE_list(
    "libraries", list(LIBRARIES), "Whose SAEs to train, of " + ", ".join(LIBRARIES) + ".", flag_values=FLAGS
)


def main() -> None:
    if _ACTIVATIONS.value is None:
        raise cli.UsageError("--activations is needed: a file or a folder, such as make real writes.")
    unknown = [name for name in _LIBRARIES.value if name not in LIBRARIES]
    if unknown or not _LIBRARIES.value:
        raise cli.UsageError(
            f"--libraries must list some of {', '.join(LIBRARIES)}, but {', '.join(unknown) or 'none'} is there."
        )
    if _SPARSITY.value >= _NUM_LATENTS.value:
        raise cli.UsageError(f"--sparsity must be below the {_NUM_LATENTS.value} latents, but it is {_SPARSITY.value}.")
    directory = cli.local_folder("results_dir", _RESULTS_DIR.value) / NAME
    try:
        train, _ = open_activations(_ACTIVATIONS.value, key=_KEY.value).split()
        rows = train.take(np.arange(train.num_samples))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    taken = [name for name in _LIBRARIES.value if (directory / name).exists()]
    if taken:
        raise cli.UsageError(f"{directory / taken[0]} is there already; remove it, or give another --results_dir.")
    try:
        import torch
    except ImportError:
        raise cli.UsageError("the libraries are not installed; do so by pip install 'sae_gap[peer_saes]'.") from None
    steps = max(1, round(_EPOCHS.value * len(rows) / _BATCH.value))
    for name in _LIBRARIES.value:
        torch.manual_seed(_SEED.value)
        began = time.process_time()
        try:
            LIBRARIES[name](rows, steps, directory / name)
        except ImportError as error:
            raise cli.UsageError(f"{error.name} is not installed; do so by pip install 'sae_gap[peer_saes]'.") from None
        logging.info("%s: %d steps, %.0f s of the processor", directory / name, steps, time.process_time() - began)


if __name__ == "__main__":
    cli.run(main, FLAGS)

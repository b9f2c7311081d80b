"""How long a training step takes: microseconds per step of each SAE at each width, batch 64, on one seed and on several.

A step is one minibatch: gradient, projection, AdamW. Compilation is apart. Each figure is the fastest of several repeats, the
repeats of all cells interleaved so that a slow spell of the machine falls on all alike. Writes rows.jsonl, with the median
beside the fastest, and summary.csv under <results_dir>/training_speed/ and prints the table.

  python -m sae_gap training_speed --num_latents=100,1000
"""

import itertools
import statistics
import sys
import time

import jax
from absl import flags

from benchmarks import cli
from sae_gap.core.types import Setting
from sae_gap.data.paper import draw
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.figures import tables
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.runtime import devices
from sae_gap.storage import results
from sae_gap.study.fitting import fit

NAME = "training_speed"
SPARSITY = 10
ENCODERS = {"sae_relu": ReLU(), "sae_topk": TopK(SPARSITY), "sae_jumprelu": JumpReLU(), "sae_mp": MatchingPursuit(SPARSITY)}

FLAGS = flags.FlagValues()
_NUM_LATENTS = flags.DEFINE_list("num_latents", ["100", "1000"], "Widths to time.", flag_values=FLAGS)
_SEEDS = flags.DEFINE_list("num_seeds", ["1"], "Numbers of seeds trained at once.", flag_values=FLAGS)
_STEPS = flags.DEFINE_integer("num_steps", 800, "Steps to time, rounded up to whole epochs.", lower_bound=1, flag_values=FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Repeats, of which the fastest counts.", lower_bound=1, flag_values=FLAGS)
_RESULTS_DIR = flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)


def prepare(name: str, num_latents: int, num_seeds: int, num_steps: int):
    """A function that trains once and returns the microseconds per step and seed."""
    tasks = [devices.place(draw(Setting(num_latents, SPARSITY, seed=seed)), devices.mesh()) for seed in range(num_seeds)]
    keys = [jax.random.key(seed) for seed in range(num_seeds)]
    steps_per_epoch = -(-len(tasks[0].train.signals) // SparseAutoencoder.batch_size)
    epochs = -(-num_steps // steps_per_epoch)
    learner = SparseAutoencoder(encoder=ENCODERS[name], num_steps=epochs)

    def train() -> float:
        began = time.perf_counter()
        fits = fit(learner, tasks, keys)
        seconds = time.perf_counter() - began - fits[0].compile_seconds
        return seconds / (epochs * steps_per_epoch * num_seeds) * 1e6

    return train


def main() -> None:
    widths = cli.parse_integers("num_latents", _NUM_LATENTS.value)
    counts = cli.parse_integers("num_seeds", _SEEDS.value)
    if min(counts) < 1:
        raise cli.UsageError(f"--num_seeds must list integers above 0, but it is {','.join(_SEEDS.value)!r}.")
    try:
        cells = list(itertools.product(ENCODERS, widths, counts))
        timers = [prepare(*cell, _STEPS.value) for cell in cells]
        store = results.Store(cli.folder("results_dir", _RESULTS_DIR.value) / NAME)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    for timer in timers:
        timer()
    repeats = list(zip(*([timer() for timer in timers] for _ in range(_REPEATS.value)), strict=True))
    provenance = results.provenance() | {"device": devices.describe()}
    rows = []
    for (name, num_latents, num_seeds), seconds in zip(cells, repeats, strict=True):
        cell = {"study": NAME, "method": name, "num_latents": num_latents, "num_seeds": num_seeds}
        timed = {"step_us": min(seconds), "step_us_median": statistics.median(seconds)}
        rows.append(cell | timed | provenance)
    identity = results.key({"rows": rows})
    store.append([row | {"key": results.key(row), "job": identity} for row in rows])
    summary = tables.summarise(rows, by=("method", "num_latents", "num_seeds"), metrics=("step_us", "step_us_median"))
    tables.write_table(store.folder, "summary.csv", summary)
    columns = {
        "method": "method",
        "num_latents": "latents",
        "num_seeds": "seeds",
        "step_us": "µs/step",
        "step_us_median": "median",
    }
    sys.stdout.write(tables.format_table(summary, columns) + "\n")


if __name__ == "__main__":
    cli.run(main, FLAGS)

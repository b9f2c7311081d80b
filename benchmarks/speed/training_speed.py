"""How long a training step takes: microseconds per step of each SAE at each width, batch 64, on one seed and on several.

A step is one minibatch: gradient, projection, AdamW. Compilation is apart. Each figure is the fastest of several repeats, the
repeats of all cells interleaved so that a slow spell of the machine falls on all alike. Writes rows, with the median beside the
fastest, and summary.csv under <results_dir>/training_speed/ and prints the table.

  python -m sae_gap training_speed --num_latents=100,1000
"""

import itertools
import statistics
import sys
import time

import jax
from absl import flags

from benchmarks import cli
from benchmarks.harness.methods import SAES
from sae_gap import catalogue
from sae_gap.core.types import Setting
from sae_gap.data.paper import draw
from sae_gap.figures import tables
from sae_gap.runtime import devices
from sae_gap.storage import results
from sae_gap.study.fitting import fit

NAME = "training_speed"
SPARSITY = 10

FLAGS = flags.FlagValues()
flags.DEFINE_list("num_latents", ["100", "1000"], "Widths to time.", flag_values=FLAGS)
flags.DEFINE_list("num_seeds", ["1"], "Numbers of seeds trained at once.", flag_values=FLAGS)
flags.DEFINE_integer("num_steps", 800, "Steps to time, rounded up to whole epochs.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("repeats", 5, "Repeats, of which the fastest counts.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)


def prepare(name: str, num_latents: int, num_seeds: int, num_steps: int):
    """A function that trains once and returns the microseconds per step and seed."""
    tasks = [devices.place(draw(Setting(num_latents, SPARSITY, seed=seed)), devices.mesh()) for seed in range(num_seeds)]
    keys = [jax.random.key(seed) for seed in range(num_seeds)]
    learner = catalogue.paper_sae(name, sparsity=SPARSITY)
    steps_per_epoch = -(-len(tasks[0].train.signals) // learner.batch_size)
    epochs = -(-num_steps // steps_per_epoch)
    learner = catalogue.paper_sae(name, sparsity=SPARSITY, num_steps=epochs)

    def train() -> float:
        began = time.perf_counter()
        fits = fit(learner, tasks, keys)
        seconds = time.perf_counter() - began - fits[0].compile_seconds
        return seconds / (epochs * steps_per_epoch * num_seeds) * 1e6

    return train


def main() -> None:
    widths, counts = (cli.parse_integers(name, getattr(FLAGS, name), least=1) for name in ("num_latents", "num_seeds"))
    cells = list(itertools.product(SAES, widths, counts))
    store = results.Store(cli.folder(FLAGS.results_dir) / NAME)
    with cli.usage():
        store.folder.require_writable()
        timers = [prepare(*cell, FLAGS.num_steps) for cell in cells]
    for timer in timers:
        timer()
    repeats = zip(*([timer() for timer in timers] for _ in range(FLAGS.repeats)), strict=True)
    provenance = results.provenance() | {"device": devices.describe()}
    rows = []
    for (name, num_latents, num_seeds), times in zip(cells, repeats, strict=True):
        cell = {"study": NAME, "method": f"sae_{name}", "num_latents": num_latents, "num_seeds": num_seeds}
        rows.append(cell | {"step_us": min(times), "step_us_median": statistics.median(times)} | provenance)
    job = results.key({"rows": rows})
    store.append([row | {"key": results.key(row), "job": job} for row in rows])
    columns = {
        "method": "method",
        "num_latents": "latents",
        "num_seeds": "seeds",
        "step_us": "µs/step",
        "step_us_median": "median",
    }
    summary = tables.summarise(rows, by=list(columns)[:3], metrics=list(columns)[3:])
    tables.write_table(store.folder, "summary.csv", summary)
    sys.stdout.write(tables.format_table(summary, columns) + "\n")


if __name__ == "__main__":
    cli.run(main, FLAGS)

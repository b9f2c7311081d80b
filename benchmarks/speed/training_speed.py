"""How long a training step takes: microseconds per step of each SAE at each width, batch 64, on one
seed and on several.

A step is one minibatch: gradient, projection, AdamW. Compilation is apart. Each figure is the
fastest of several repeats, the repeats of all cells interleaved so that a slow spell of the machine
falls on all alike. Writes rows, with the median beside the fastest, and summary.csv under
<results_dir>/training_speed/ and prints the table.

  python -m sae_gap training_speed --num_latents=100,1000
"""

import dataclasses
import itertools
import statistics
import time

import jax

from benchmarks import cli
from benchmarks.harness.methods import SAES
from benchmarks.options import Results, option
from sae_gap import catalogue
from sae_gap.core.types import Setting
from sae_gap.data.paper import draw
from sae_gap.figures import tables
from sae_gap.runtime import devices
from sae_gap.storage import results
from sae_gap.study.fitting import fit

NAME = "training_speed"
SPARSITY = 10
COLUMNS = {
    "method": "method",
    "num_latents": "latents",
    "num_seeds": "seeds",
    "step_us": "µs/step",
    "step_us_median": "median",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpeedOptions(Results):
    """What to time."""

    num_latents: tuple[int, ...] = option((100, 1_000), "Widths to time.", least=1)
    num_seeds: tuple[int, ...] = option((1,), "Numbers of seeds trained at once.", least=1)
    num_steps: int = option(800, "Steps to time, rounded up to whole epochs.", least=1)
    repeats: int = option(5, "Repeats, of which the fastest counts.", least=1)


def prepare(name: str, num_latents: int, num_seeds: int, num_steps: int):
    """A function that trains once and returns the microseconds per step and seed."""
    seeds = range(num_seeds)
    tasks = [
        devices.place(draw(Setting(num_latents, SPARSITY, seed=seed)), devices.mesh())
        for seed in seeds
    ]
    keys = [jax.random.key(seed) for seed in seeds]
    steps_per_epoch = -(
        -len(tasks[0].train.signals) // catalogue.paper_sae(name, sparsity=SPARSITY).batch_size
    )
    epochs = -(-num_steps // steps_per_epoch)
    learner = catalogue.paper_sae(name, sparsity=SPARSITY, num_steps=epochs)

    def train() -> float:
        start = time.perf_counter()
        fits = fit(learner, tasks, keys)
        seconds = time.perf_counter() - start - fits[0].compile_seconds
        return seconds / (epochs * steps_per_epoch * num_seeds) * 1e6

    return train


def main(options: TrainingSpeedOptions) -> None:
    cells = list(itertools.product(SAES, options.num_latents, options.num_seeds))
    store = results.Store(cli.folder(options.results_dir) / NAME)
    with cli.usage():
        store.folder.require_writable()
        timers = [prepare(*cell, options.num_steps) for cell in cells]
    for timer in timers:
        timer()
    repeats = zip(*([timer() for timer in timers] for _ in range(options.repeats)), strict=True)
    provenance = results.provenance() | {"device": devices.describe()}
    rows = []
    for (name, num_latents, num_seeds), times in zip(cells, repeats, strict=True):
        cell = {
            "study": NAME,
            "method": f"sae_{name}",
            "num_latents": num_latents,
            "num_seeds": num_seeds,
        }
        rows.append(
            cell | {"step_us": min(times), "step_us_median": statistics.median(times)} | provenance
        )
    job = results.key({"rows": rows})
    store.append([row | {"key": results.key(row), "job": job} for row in rows])
    summary = tables.summarise(rows, by=list(COLUMNS)[:3], metrics=list(COLUMNS)[3:])
    tables.write_table(store.folder, "summary.csv", summary)
    print(tables.format_table(summary, COLUMNS))


if __name__ == "__main__":
    cli.run(main)

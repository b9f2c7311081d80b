"""What the certified coder costs an accelerator, counted without one: turns of its loops, and the
least time that they leave.

An accelerator takes every loop in step for all samples, so that turns are what there is to save. A
*round* is one product with the dictionary and the lasso on some slots, and each of its *pivots*
reads and writes a tableau a sample. Counted here, on a CPU that is made to take the accelerator's
path. The least time of a product is that of its operations, and that of a pivot what memory takes,
both of an NVIDIA H100 (SXM: 67 TFLOP/s in float32, 3.35 TB/s); nothing else is counted, so that a
device takes longer.

  python -m sae_gap device_cost
  python -m sae_gap device_cost --samples=10000
"""

import collections
import dataclasses
import sys

import jax
import numpy as np
from jax import lax

from benchmarks import cli
from benchmarks.options import Options, option
from sae_gap.figures import tables
from sae_gap.solvers import coding, pivoting, sparse_code, working_set

# Dimensions, latents, latents that are on, and λ.
PROBLEMS = ((93, 1_000, 10, 0.1), (221, 1_000, 32, 0.1), (768, 16_384, 32, 0.1))
# Operations and bytes a second of an NVIDIA H100 SXM, by its data sheet.
FLOPS, BYTES = 67e12, 3.35e12


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceCostOptions(Options):
    """How much to code."""

    samples: int = option(500, "Samples that are coded together.", least=1)
    seed: int = option(0, "Seed of dictionaries and signals.", least=0)


def draw(seed: int, samples: int, input_dim: int, num_latents: int, sparsity: int):
    """Signals that are sparse on unit Gaussian atoms, with a little noise."""
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(input_dim, num_latents)).astype(np.float32)
    dictionary /= np.linalg.norm(dictionary, axis=0)
    signals = 0.01 * rng.normal(size=(samples, input_dim)).astype(np.float32)
    for row in signals:
        on = rng.choice(num_latents, sparsity, replace=False)
        row += dictionary[:, on] @ rng.uniform(0.5, 1.5, sparsity).astype(np.float32)
    return signals, dictionary


def count(signals, dictionary, lam: float):
    """The solution, and the turns of each loop by the module that has it and its slots."""
    turns: collections.Counter = collections.Counter()
    loop, here = lax.while_loop, coding._on_the_host

    def counted(cond, body, start):
        slots = max(np.shape(leaf)[1] for leaf in jax.tree.leaves(start) if np.ndim(leaf) == 2)
        key = cond.__module__, slots

        def step(carry):
            jax.debug.callback(lambda: turns.update([key]))
            return body(carry)

        return loop(cond, step, start)

    try:
        lax.while_loop, coding._on_the_host = counted, lambda arrays: False
        solution = sparse_code(signals, dictionary, lam, solver="working_set")
        jax.effects_barrier()
    finally:
        lax.while_loop, coding._on_the_host = loop, here
    return solution, turns


def main(options: DeviceCostOptions) -> None:
    lines = []
    for input_dim, num_latents, sparsity, lam in PROBLEMS:
        signals, dictionary = draw(options.seed, options.samples, input_dim, num_latents, sparsity)
        solution, turns = count(signals, dictionary, lam)
        rounds = sum(n for (name, _), n in turns.items() if name == working_set.__name__)
        pivots = {w: n for (name, w), n in turns.items() if name == pivoting.__name__}
        product = 2 * options.samples * input_dim * num_latents / FLOPS
        traffic = sum(n * 8 * options.samples * w**2 for w, n in pivots.items()) / BYTES
        lines.append(
            {
                "problem": f"{input_dim} × {num_latents:,}",
                "L0": f"{np.mean(np.sum(np.asarray(solution.codes) != 0, axis=1)):.1f}",
                "certified": f"{np.mean(solution.converged):.1%}",
                "rounds": rounds,
                "pivots": sum(pivots.values()),
                "µs a product": f"{1e6 * product:.0f}",
                "µs all products": f"{1e6 * product * rounds:.0f}",
                "µs all pivots": f"{1e6 * traffic:.0f}",
            }
        )
    sys.stdout.write(tables.format_table(lines, {name: name for name in lines[0]}) + "\n")


if __name__ == "__main__":
    cli.run(main)

r"""How fast the sparse coder is beside other libraries: seconds, and the accuracy that they bought,
in one table.

Without flags this is the table of RESULTS.md, in some five minutes on two cores: the cells of
`problems.TABLE`, and a dictionary so wide that the Gram matrix of a peer would take minutes, where
the coder is held against a product alone. The flags of a cell time one of your own instead.

All solvers (`problems.CODERS`) get the same float32 arrays in the same process, one after the other
in every repeat, so that a slow spell of the machine falls on all alike. The first call is apart: it
is the one that compiles, and the first of all also loads what Numba has compiled. Every code is
scored in float64 by its objective and its duality gap (`scores`). Prints a line a cell and solver:
its seconds, those of its first call, its largest relative gap, its seconds in products of all
signals with the dictionary, and the seconds of working_set as a share of them. Writes
<results_dir>/solver_speed/summary.csv.

  python -m sae_gap solver_speed                # all cores
  taskset -c 0 python -m sae_gap solver_speed   # one core
  python -m sae_gap solver_speed --num_latents=1000000 --num_samples=10 --solvers=working_set
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cli
from benchmarks.options import Results, frozen, option
from benchmarks.speed import problems, scores
from benchmarks.speed.problems import CODERS, OURS, Cell, Run, codes_of
from sae_gap.analysis import tables
from sae_gap.runtime import devices
from sae_gap.storage import Row, provenance

NAME = "solver_speed"
# Seconds after which the repeats of a cell end.
MOST_SECONDS = 20.0
_PRODUCT = "product"
_COLUMNS = (
    "method num_latents sparsity num_samples lam l0 seconds first gap products share"
)


@frozen
class SolverSpeedOptions(Results):
    """A problem of one's own, unless the table is timed, and the solvers."""

    num_latents: int | None = option(None, "Of a cell of your own: latents.", least=1)
    sparsity: int | None = option(
        None, "Of a cell of your own: active latents of a sample.", least=1
    )
    num_samples: int | None = option(
        None, "Of a cell of your own: samples coded at once.", least=1
    )
    lam: float | None = option(
        None, "Of a cell of your own: weight of the l1 norm.", least=1e-30
    )
    solvers: tuple[str, ...] = option(
        ("spams", "celer"),
        f"What {OURS} is held against: some of {', '.join(CODERS)}.",
        choices=tuple(CODERS),
    )
    repeats: int = option(9, "Repeats, of which the fastest counts.", least=1)


def measure(
    cell: Cell, names: Sequence[str], repeats: int
) -> tuple[list[Row], list[str]]:
    """Times and scores every solver on one cell; also says what was skipped, and why.

    For a solver that takes one signal at a time and was timed on `num_timed` of them, the seconds
    are extrapolated to all.
    """
    problem = problems.draw(cell)
    runs: dict[str, Run] = {}
    skipped = []
    rows = []
    for name in names:
        few = problem._replace(signals=problem.signals[: CODERS[name].at_most])
        try:
            runs[name] = CODERS[name].prepare(few)
        except ImportError as error:
            skipped.append(f"{name} skipped: {error.name} is not installed")
    product = jax.jit(jnp.matmul)
    arrays = tuple(map(jnp.asarray, problem[:2]))
    runs[_PRODUCT] = lambda: product(*arrays).block_until_ready()
    first = {name: _timed(run) for name, run in runs.items()}
    least = dict.fromkeys(runs, math.inf)
    start = time.perf_counter()
    for _ in range(repeats):
        for name, run in runs.items():
            least[name] = min(least[name], _timed(run)[0])
        if time.perf_counter() - start > MOST_SECONDS:
            break
    for name in [*runs][:-1]:
        codes = codes_of(first[name][1])
        signals = problem.signals[: len(codes)]
        value, gap = scores.score(signals, problem.dictionary, codes, problem.lam)
        seconds = least[name] * len(problem.signals) / len(codes)
        rows.append(
            {
                **cell._asdict(),
                "lam": problem.lam,
                "input_dim": problem.signals.shape[1],
                "method": name,
                "num_timed": len(codes),
                "seconds": seconds,
                "first": first[name][0],
                "products": seconds / least[_PRODUCT],
                "share": least.get(OURS, math.nan) / seconds,
                "gap": float((gap / np.maximum(value, 1e-300)).max()),
                "l0": float(np.count_nonzero(codes, axis=1).mean()),
            }
        )
    return rows, skipped


def _timed(run: Run) -> tuple[float, Any]:
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def main(options: SolverSpeedOptions) -> None:
    names = [*dict.fromkeys((OURS, *options.solvers))]
    flags = vars(options)
    given = {name: flags[name] for name in Cell._fields if flags.get(name) is not None}
    cells = dict.fromkeys(problems.TABLE, names) | {problems.WIDE: [OURS]}
    folder = options.folder(NAME)
    made = provenance() | {"device": devices.describe()}
    rows: list[Row] = []
    notes: dict[str, None] = {}
    for cell, chosen in ({Cell(**given): names} if given else cells).items():
        timed, skipped = measure(cell, chosen, options.repeats)
        rows += [row | made for row in timed]
        notes |= dict.fromkeys(skipped)
    tables.write_table(folder, "summary.csv", rows)
    print(
        tables.table("Seconds and what they bought", _COLUMNS, rows), *notes, sep="\n"
    )


if __name__ == "__main__":
    cli.run(main)

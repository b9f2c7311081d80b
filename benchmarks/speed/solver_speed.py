r"""How fast the sparse coder is beside other libraries: seconds, and the accuracy that they bought,
in one table.

Without flags this is the table of RESULTS.md, in some five minutes on two cores: the cells of
`problems.TABLE`, and a dictionary so wide that the Gram matrix of a peer would take minutes, where
the coder is held against a product alone. The flags of a cell time one of your own instead.

All solvers (`coders`) get the same float32 arrays in the same process, one after the other in every
repeat, so that a slow spell of the machine falls on all alike. The first call is apart: it is the
one that compiles, and the first of all also loads what Numba has compiled. Every code is scored in
float64 by its objective and its duality gap (`scores`). Prints a line a cell: the seconds of
working_set, and their ratio to those of one product of all signals with the dictionary and of each
other solver, with its largest gap in brackets. Writes rows, summary.csv and a figure of time
against accuracy at the first cell under <results_dir>/solver_speed/.

  python -m sae_gap solver_speed                # all cores
  taskset -c 0 python -m sae_gap solver_speed   # one core
  python -m sae_gap solver_speed --num_latents=1000000 --num_samples=100 --solvers=working_set
  python -m sae_gap solver_speed --world=coherent --num_latents=6144 --sparsity=40 \
    --num_samples=200 --lam_fraction=.2
  python -m sae_gap solver_speed --dictionary=DICTIONARY.npy --activations=ACTIVATIONS.npy \
    --num_samples=64
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cli
from benchmarks.checks import scores
from benchmarks.options import Results, option
from benchmarks.speed import problems
from benchmarks.speed.coders import CODERS, JITTED, OURS, TARGET, Run, codes_of
from benchmarks.speed.problems import Cell, Files, Problem
from sae_gap import figures
from sae_gap.core.types import Setting
from sae_gap.figures import labels, tables
from sae_gap.runtime import devices
from sae_gap.storage import results

NAME = "solver_speed"
# Seconds after which the repeats of a cell end.
MOST_SECONDS = 20.0
_PRODUCT = "product", 0.0
COLUMNS = (
    *("world", *results.CELL, "lam", "lam_fraction", "input_dim", "method", "effort"),
    *("seconds", "seconds_median", "seconds_first", "num_timed"),
    *("samples_per_second", "ratio_to_product", "objective", "suboptimality"),
    *("relative_gap_max", "relative_gap_median", "share_certified", "relative_error", "l0"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverSpeedOptions(Results):
    """A problem of one's own, unless the table is timed, and the solvers."""

    num_latents: int | None = option(None, "Of a cell of your own: latents.", least=1)
    sparsity: int | None = option(
        None, "Of a cell of your own: active latents of a sample.", least=1
    )
    num_samples: int | None = option(None, "Of a cell of your own: samples coded at once.", least=1)
    input_dim: int | None = option(
        None, "Of a cell of your own: dimensions.  [those of the world]", least=1
    )
    lam: float | None = option(None, "Of a cell of your own: weight of the l1 norm.", least=1e-30)
    lam_fraction: float | None = option(
        None, "The weight as a share of the signals' median λ_max.", least=1e-30
    )
    world: str | None = option(
        None,
        "Of a cell of your own: atoms, independent or in clusters.",
        choices=tuple(problems.WORLDS),
    )
    dictionary: str | None = option(
        None, "An .npy file (input_dim, num_latents) of your own, with --activations."
    )
    activations: str | None = option(
        None, "An .npy file (n, input_dim) of your own, with --dictionary."
    )
    solvers: tuple[str, ...] = option(
        (JITTED, "spams", "spams_double", "celer", "skglm"),
        f"What {OURS} is held against: some of {', '.join(CODERS)}.",
        choices=tuple(CODERS),
    )
    repeats: int = option(9, "Repeats, of which the fastest counts.", least=1)


def prepare(
    problem: Problem, names: Sequence[str], *, every: bool
) -> tuple[dict[tuple[str, float], Run], list[str]]:
    """What is to be timed, by solver and effort, and a sentence for each solver that is not, with
    the reason.
    """
    runs: dict[tuple[str, float], Run] = {}
    skipped = []
    for name in names:
        coder = CODERS[name]
        part = problem if coder.at_most is None else problem.first(coder.at_most)
        try:
            runs |= {
                (name, effort): coder.prepare(part, effort)
                for effort in coder.efforts[0 if every else -1 :]
            }
        except ImportError as error:
            skipped.append(f"{name} skipped: {error.name} is not installed")
    return runs, skipped


def assess(problem: Problem, codes: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """What the codes of the first signals are worth, and the objective of each of them."""
    part = problem.first(len(codes))
    rest = part.signals - codes.astype(np.float64) @ part.dictionary.T
    value, gap = scores.score(part.signals, part.dictionary, codes, part.lam)
    shares = gap / np.maximum(value, 1e-300)
    worth = {
        "relative_error": float(
            np.mean((rest**2).sum(axis=1) / np.maximum((part.signals**2).sum(axis=1), 1e-300))
        ),
        "l0": float((codes != 0).sum(axis=1).mean()),
        "objective": float(value.mean()),
        "relative_gap_max": float(shares.max()),
        "relative_gap_median": float(np.median(shares)),
        "share_certified": float(np.mean(shares <= TARGET)),
    }
    return worth, value


def measure(
    cell: Cell,
    names: Sequence[str],
    repeats: int,
    files: Files | None = None,
    *,
    every: bool = True,
) -> tuple[list[dict], list[str]]:
    """Time and score every solver on one cell, at every effort or the last; also says what was
    skipped, and why.

    Seconds of a solver that takes one signal at a time and was timed on `num_timed` of them are
    those of all, in proportion.
    """
    problem = problems.draw(cell, files)
    num_samples = len(problem.signals)
    runs, skipped = prepare(problem, names, every=every)
    product = jax.jit(lambda y, d: y @ d)
    arrays = jnp.asarray(problem.signals), jnp.asarray(problem.dictionary)
    runs[_PRODUCT] = lambda: product(*arrays).block_until_ready()
    codes, first = {}, {}
    seconds: dict[tuple[str, float], list[float]] = {key: [] for key in runs}
    for key, run in runs.items():
        begin = time.perf_counter()
        result = run()
        first[key], codes[key] = time.perf_counter() - begin, codes_of(result)
    start = time.perf_counter()
    for _ in range(repeats):
        for key, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[key].append((time.perf_counter() - begin) * num_samples / len(codes[key]))
        if time.perf_counter() - start > MOST_SECONDS:
            break
    product_seconds = min(seconds.pop(_PRODUCT))
    scored = {key: assess(problem, codes[key]) for key in seconds}
    best = np.full(num_samples, np.inf)
    for _, value in scored.values():
        best[: len(value)] = np.minimum(best[: len(value)], value)
    rows = []
    for (name, effort), times in seconds.items():
        worth, value = scored[name, effort]
        least = best[: len(value)]
        row = {
            "study": NAME,
            "method": name,
            "effort": effort,
            "seed": 0,
            **dataclasses.asdict(cell),
            "lam": problem.lam,
            "input_dim": problem.signals.shape[1],
            "num_samples": num_samples,
            "num_latents": problem.dictionary.shape[1],
            "num_timed": len(codes[name, effort]),
            "seconds": min(times),
            "seconds_median": statistics.median(times),
            "seconds_first": first[name, effort],
            "samples_per_second": num_samples / min(times),
            "ratio_to_product": min(times) / product_seconds,
            **worth,
            "suboptimality": float(((value - least) / np.maximum(least, 1e-300)).max()),
        }
        rows.append(row)
    return rows, skipped


def line(rows: Sequence[dict], names: Sequence[str]) -> dict[str, str]:
    """The line of a cell, by heading: our coder at the last of its efforts, and its seconds over
    those of the others.
    """
    last = {row["method"]: row for row in rows}
    ours = last[OURS]
    cells = {
        "atoms": f"{ours['num_latents']:,} in {ours['input_dim']:,}"
        + ", coherent" * (ours["world"] == "coherent"),
        "k": f"{ours['sparsity'] or '-'}",
        "samples": f"{ours['num_samples']:,}",
        "λ": f"{ours['lam_fraction']:g} λ_max" if ours["lam_fraction"] else f"{ours['lam']:g}",
        "L0": f"{ours['l0']:.3g}",
        f"{OURS}, s": f"{ours['seconds']:.2g}",
        "first call, s": f"{ours['seconds_first']:.2g}",
        "max gap": _gap(ours),
        "/ product": f"{ours['ratio_to_product']:.2g}",
    }
    for name in names[1:]:
        cell = "-"
        if name in last:
            # Under `jit` it is the same coder, of which the first call says more than the gap.
            more = (
                f"first {last[name]['seconds_first']:.2g} s" if name == JITTED else _gap(last[name])
            )
            cell = f"{ours['seconds'] / last[name]['seconds']:.2g} ({more})"
        cells[f"/ {labels.label(name, 'solver')}"] = cell
    return cells


def _gap(row: dict) -> str:
    return f"{row['relative_gap_max']:.0e}"


def _files(options: SolverSpeedOptions) -> Files | None:
    if options.activations and options.dictionary:
        return problems.load(options.activations, options.dictionary)
    if options.activations or options.dictionary:
        raise cli.UsageError("--dictionary and --activations go together; give both or neither.")
    return None


def _cells(
    options: SolverSpeedOptions, files: Files | None, names: Sequence[str]
) -> dict[Cell, Sequence[str]]:
    """The cells that the options ask for, and the solvers of each."""
    asked: dict[str, Any] = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(Cell)
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if {"lam", "lam_fraction"} <= asked.keys():
        raise cli.UsageError(
            "--lam and --lam_fraction are two ways to give one weight; give one of them."
        )
    if files is not None:
        unused = [
            f"--{name}"
            for name in ("num_latents", "sparsity", "input_dim", "world")
            if name in asked
        ]
        if unused:
            raise cli.UsageError(
                f"files of your own leave no use for {' and '.join(unused)}; leave that out."
            )
        asked |= {"num_latents": files.dictionary.shape[1], "sparsity": 0, "world": "own"}
    elif not asked:
        return dict.fromkeys(problems.TABLE, names) | {problems.WIDE: [OURS]}
    cell = Cell(**asked)
    if files is None:
        with cli.usage():
            Setting(cell.num_latents, cell.sparsity, max(4, cell.num_samples))
    return {cell: names}


def main(options: SolverSpeedOptions) -> None:
    files = _files(options)
    names = list(dict.fromkeys((OURS, *options.solvers)))
    cells = _cells(options, files, names)
    store = results.Store(cli.folder(options.results_dir) / NAME)
    with cli.usage():
        store.folder.require_writable()
    provenance = results.provenance() | {"device": devices.describe()}
    parts: list[list[dict]] = []
    notes: dict[str, None] = {}
    for cell, chosen in cells.items():
        with cli.usage():
            timed, skipped = measure(cell, chosen, options.repeats, files, every=not parts)
        parts.append([row | provenance for row in timed])
        for row in parts[-1]:
            store.put(row | {"key": results.key(row)})
        notes |= dict.fromkeys(skipped)
    rows = [row for part in parts for row in part]
    tables.write_table(store.folder, "summary.csv", rows, COLUMNS)
    figure = figures.gap_by_seconds(parts[0])
    if figure is not None:
        figures.save(figure, store.folder, "time_accuracy")
    lines = [line(part, names) for part in parts]
    table = [[*lines[0]], ["---"] * len(lines[0]), *([*cells.values()] for cells in lines)]
    print(*(f"| {' | '.join(cells)} |" for cells in table), *notes, sep="\n")


if __name__ == "__main__":
    cli.run(main)

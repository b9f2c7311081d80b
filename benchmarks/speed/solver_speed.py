"""How fast the sparse coder is, beside every peer that is installed: seconds, and the accuracy they bought.

All solvers (`coders`) get the same float32 arrays in the same process, one after the other in every repeat, so that
a slow spell of the machine falls on all alike; compilation is apart. Every code is scored in float64 by its objective and its
duality gap (`scores`); a greedy coder, which does not minimise the lasso, by its error and L0 alone. The first value
of each list is the base, and the other values vary one at a time (`problems`). Writes rows, summary.csv and a
figure of time against accuracy at the base under <results_dir>/solver_speed/, and prints the table.

  python -m sae_gap solver_speed --num_latents=1000,100,10000 --lam=0.1,0.01
  python -m sae_gap solver_speed --num_latents=1000000 --num_samples=100 --solvers=working_set
  python -m sae_gap solver_speed --world=coherent --num_latents=6144 --sparsity=40 --num_samples=200 --lam_fraction=.2,.05
  python -m sae_gap solver_speed --dictionary=DICTIONARY.npy --activations=ACTIVATIONS.npy --num_samples=64
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import cli
from benchmarks.real import scores
from benchmarks.speed import problems
from benchmarks.speed.coders import CODERS, OURS, TARGET, Coder, Run, codes_of
from benchmarks.speed.problems import Cell, Files, Problem
from sae_gap import figures
from sae_gap.core.types import Setting
from sae_gap.figures import tables
from sae_gap.runtime import devices
from sae_gap.storage import results

NAME = "solver_speed"
PROBE = 20
COLUMNS = (
    *("world", *results.CELL, "lam", "lam_fraction", "input_dim", "method", "effort"),
    *("seconds", "seconds_median", "num_timed"),
    *("samples_per_second", "ratio_to_spams", "ratio_to_certified", "ratio_to_product", "objective", "suboptimality"),
    *("relative_gap_max", "relative_gap_median", "share_certified", "relative_error", "l0"),
)
HEADINGS = {
    "num_latents": "latents",
    "sparsity": "k",
    "num_samples": "samples",
    "lam": "λ",
    "method": "solver",
    "seconds": "seconds",
    "samples_per_second": "samples/s",
    "ratio_to_spams": "/ SPAMS",
    "ratio_to_certified": "/ SPAMS certified",
    "ratio_to_product": "/ product",
    "relative_gap_max": "max gap",
    "share_certified": "certified",
    "relative_error": "error",
    "l0": "L0",
}

FLAGS = flags.FlagValues()
_LISTS = {
    "num_latents": ("1000,100,10000", "Numbers of latents."),
    "sparsity": ("10,2,5,20,50,100", "Numbers of active latents a sample."),
    "num_samples": ("2500,1,100", "Numbers of samples coded at once."),
    "lam": ("0.1,0.001,0.01,0.5", "Weights of the l1 norm."),
    "lam_fraction": ("", "Weights as fractions of the median λ_max of the signals, instead of --lam."),
    "solvers": (",".join(CODERS), "Solvers to time."),
}
for _name, (_default, _text) in _LISTS.items():
    flags.DEFINE_list(_name, _default, _text, flag_values=FLAGS)
flags.DEFINE_integer("repeats", 5, "Repeats, of which the fastest counts.", lower_bound=1, flag_values=FLAGS)
cli.DEFINE_number("max_seconds", 10.0, "A peer that would take longer on a cell is skipped.", FLAGS, lower_bound=0)
flags.DEFINE_enum(
    "world", "paper", list(problems.WORLDS), "Atoms: independent, or in clusters at a cosine of about .5.", flag_values=FLAGS
)
flags.DEFINE_integer("input_dim", None, "Dimensions; by default those of the world.", lower_bound=1, flag_values=FLAGS)
for _name, _shape in {"dictionary": "(input_dim, num_latents)", "activations": "(n, input_dim)"}.items():
    flags.DEFINE_string(_name, None, f"An .npy file {_shape} of your own; give both or neither.", flag_values=FLAGS)
flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)


def expect(coder: Coder, problem: Problem, effort: float) -> float:
    """Seconds that a run will take, from runs on few samples."""
    times = []
    for count in (PROBE, 2 * PROBE):
        probe = coder.prepare(problem.first(count), effort)
        probe()
        began = time.perf_counter()
        probe()
        times.append(time.perf_counter() - began)
    # By two, since some work does not grow with the samples, such as a Gram matrix.
    return times[0] + max(times[1] - times[0], 0) * max(0, len(problem.signals) / PROBE - 1)


def prepare(problem: Problem, names: Sequence[str], max_seconds: float) -> tuple[dict[tuple[str, float], Run], list[str]]:
    """What is to be timed, by solver and effort, and a sentence for each solver that is not, with the reason."""
    runs: dict[tuple[str, float], Run] = {}
    skipped = []
    for name in names:
        coder = CODERS[name]
        part = problem if coder.at_most is None else problem.first(coder.at_most)
        for effort in coder.efforts:
            try:
                run = coder.prepare(part, effort)
                expected = 0.0 if name == OURS else expect(coder, part, effort)
            except ImportError as error:
                skipped.append(f"{name} skipped: {error.name} is not installed")
                break
            except ValueError as error:
                skipped.append(f"{name} skipped: {error}")
                break
            if expected > max_seconds:
                rest = f"{problem.signals.shape[1]} x {problem.dictionary.shape[1]}, λ = {problem.lam:.3g}"
                skipped.append(f"{name} skipped at {len(part.signals)} samples, {rest}: about {expected:.0f} s a run")
                break
            runs[name, effort] = run
    return runs, skipped


def assess(problem: Problem, codes: np.ndarray, *, lasso: bool) -> dict[str, Any]:
    """What the codes of the first signals are worth; those of the lasso with `value` and `gap` of every one of them."""
    part = problem.first(len(codes))
    rest = part.signals - codes.astype(np.float64) @ part.dictionary.T
    found: dict[str, Any] = {
        "relative_error": float(np.mean((rest**2).sum(axis=1) / np.maximum((part.signals**2).sum(axis=1), 1e-300))),
        "l0": float((codes != 0).sum(axis=1).mean()),
    }
    if not lasso:
        return found
    value, gap = scores.score(part.signals, part.dictionary, codes, part.lam)
    shares = scores.relative(value, gap)
    return found | {
        "value": value,
        "objective": float(value.mean()),
        "relative_gap_max": float(shares.max()),
        "relative_gap_median": float(np.median(shares)),
        "share_certified": float(np.mean(shares <= TARGET)),
    }


def measure(
    cell: Cell, names: Sequence[str], repeats: int, max_seconds: float, files: Files | None = None
) -> tuple[list[dict], list[str]]:
    """Time and score every solver at every effort on one cell; also says what was skipped, and why.

    Seconds of a solver that takes one signal at a time and was timed on `num_timed` of them are those of all, in proportion.
    """
    problem = problems.draw(cell, files)
    num_samples = len(problem.signals)
    runs, skipped = prepare(problem, names, max_seconds)
    floor = jax.jit(lambda y, d: y @ d)
    arrays = jnp.asarray(problem.signals), jnp.asarray(problem.dictionary)
    runs["product", 0] = lambda: jax.block_until_ready(floor(*arrays))
    codes = {key: codes_of(run()) for key, run in runs.items()}
    seconds: dict[tuple[str, float], list[float]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[key].append((time.perf_counter() - began) * num_samples / len(codes[key]))
    floor_seconds = min(seconds.pop(("product", 0)))
    found = {(name, effort): assess(problem, codes[name, effort], lasso=CODERS[name].lasso) for name, effort in seconds}
    values = {key: line.pop("value") for key, line in found.items() if "value" in line}
    best = np.full(num_samples, np.inf)
    for value in values.values():
        best[: len(value)] = np.minimum(best[: len(value)], value)
    spans = {"ratio_to_spams": ("spams", 0), "ratio_to_certified": ("spams_certified", TARGET)}
    rows = []
    for (name, effort), times in seconds.items():
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
            "samples_per_second": num_samples / min(times),
            **{ratio: min(times) / min(seconds[key]) for ratio, key in spans.items() if key in seconds},
            "ratio_to_product": min(times) / floor_seconds,
            **found[name, effort],
        }
        if (name, effort) in values:
            value = values[name, effort]
            least = best[: len(value)]
            row["suboptimality"] = float(((value - least) / np.maximum(least, 1e-300)).max())
        rows.append(row)
    return rows, skipped


def _files() -> Files | None:
    if (FLAGS.dictionary is None) != (FLAGS.activations is None):
        raise cli.UsageError("--dictionary and --activations go together; give both or neither.")
    return None if FLAGS.dictionary is None else problems.load(FLAGS.activations, FLAGS.dictionary)


def _grid(files: Files | None) -> list[Cell]:
    """The cells that the flags ask for."""
    axes: dict[str, tuple] = {
        name: cli.parse_integers(name, getattr(FLAGS, name), least=1) for name in ("num_latents", "sparsity", "num_samples")
    }
    fractions, name = FLAGS.lam_fraction, "lam_fraction" if FLAGS.lam_fraction else "lam"
    weights = cli.parse_numbers(name, getattr(FLAGS, name))
    if min(weights) <= 0:
        raise cli.UsageError(f"--{name} must list positive numbers, but it is {weights}.")
    axes |= {"lam": (0.0,), "lam_fraction": weights} if fractions else {"lam": weights}
    if files is not None:
        return problems.cells(axes | {"num_latents": (files.dictionary.shape[1],), "sparsity": (0,), "world": ("own",)})
    grid = problems.cells(axes | {"world": (FLAGS.world,), "input_dim": (FLAGS.input_dim,)})
    with cli.usage():
        for cell in grid:
            Setting(cell.num_latents, cell.sparsity, max(4, cell.num_samples))
    return grid


def main() -> None:
    unknown = sorted(set(FLAGS.solvers) - set(CODERS))
    if unknown or not FLAGS.solvers:
        raise cli.UsageError(f"--solvers must list some of {', '.join(CODERS)}, but it is {','.join(FLAGS.solvers)!r}.")
    files = _files()
    grid = _grid(files)
    store = results.Store(cli.folder(FLAGS.results_dir) / NAME)
    with cli.usage():
        store.folder.require_writable()
    provenance = results.provenance() | {"device": devices.describe()}
    parts, notes = [], dict[str, None]()
    for cell in grid:
        found, skipped = measure(cell, FLAGS.solvers, FLAGS.repeats, FLAGS.max_seconds, files)
        parts.append([row | provenance for row in found])
        job = results.key({"rows": parts[-1]})
        store.append([row | {"key": results.key(row), "job": job} for row in parts[-1]])
        notes |= dict.fromkeys(skipped)
    rows = [row for part in parts for row in part]
    tables.write_table(store.folder, "summary.csv", [{name: row.get(name) for name in COLUMNS} for row in rows])
    figure = figures.gap_by_seconds(parts[0])
    if figure is not None:
        figures.save(figure, store.folder, "time_accuracy")
    # Every solver at the last of its efforts.
    shown = [row for row in rows if row["effort"] == CODERS[row["method"]].efforts[-1]]
    values = [{name: row.get(name) for name in HEADINGS} for row in shown]
    rounded = [{name: f"{value:.3g}" if isinstance(value, float) else value for name, value in row.items()} for row in values]
    sys.stdout.write(tables.format_table(rounded, HEADINGS) + "\n" + "".join(f"{note}\n" for note in notes))


if __name__ == "__main__":
    cli.run(main, FLAGS)

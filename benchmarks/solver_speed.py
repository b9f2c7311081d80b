"""How fast the sparse coder is, beside every peer that is installed: seconds, and the accuracy they bought.

All solvers get the same float32 arrays in the same process, one after the other in every repeat, so that a slow spell of the
machine falls on all alike; compilation is apart. Every code is scored in float64 by its objective and its duality gap. The
first value of each list is the base, and the other values vary one at a time. Writes rows.jsonl, summary.csv and a figure of
time against accuracy at the base under <results_dir>/solver_speed/, and prints the table.

  python -m benchmarks.solver_speed --num_latents=1000,100,10000 --lam=0.1,0.01
  python -m benchmarks.solver_speed --num_latents=1000000 --num_samples=100 --solvers=working_set
  python -m benchmarks.solver_speed --world=coherent --num_latents=6144 --sparsity=40 --num_samples=200 --lam_fraction=.2,.05
  python -m benchmarks.solver_speed --dictionary=DICTIONARY.npy --activations=ACTIVATIONS.npy --num_samples=64
"""

import dataclasses
import functools
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import cli
from sae_gap import devices, figures, results, tables
from sae_gap.solvers import sparse_code
from sae_gap.types import Setting

NAME = "solver_speed"
OURS = "working_set"
SOLVERS = (OURS, "fista", "plain_fista", "paper_fista", "spams", "sklearn_cd", "sklearn_lars", "jaxopt")
# How hard each solver tries, from quick to exact: a tolerance or a number of iterations. The last is the one that tables show.
EFFORTS: dict[str, tuple[float, ...]] = {
    OURS: (1e-2, 1e-4, 1e-6),
    "fista": (1e-2, 1e-4, 1e-6),
    "plain_fista": (10, 30, 300, 100),
    "paper_fista": (100,),
    "spams": (0,),
    "sklearn_cd": (1e-2, 1e-4, 1e-6),
    "sklearn_lars": (0,),
    "jaxopt": (1e-5,),
}
PROBE = 20
COLUMNS = (
    *("world", "num_latents", "sparsity", "num_samples", "lam", "lam_fraction", "input_dim", "method", "effort"),
    *("seconds", "seconds_median"),
    *("samples_per_second", "ratio_to_spams", "ratio_to_product", "objective", "suboptimality"),
    *("relative_gap_max", "relative_gap_median", "l0"),
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
    "ratio_to_product": "/ product",
    "relative_gap_max": "max gap",
    "l0": "L0",
}

FLAGS = flags.FlagValues()
_NUM_LATENTS = flags.DEFINE_list("num_latents", ["1000", "100", "10000"], "Numbers of latents.", flag_values=FLAGS)
_SPARSITY = flags.DEFINE_list(
    "sparsity", ["10", "2", "5", "20", "50", "100"], "Numbers of active latents a sample.", flag_values=FLAGS
)
_NUM_SAMPLES = flags.DEFINE_list("num_samples", ["2500", "1", "100"], "Numbers of samples coded at once.", flag_values=FLAGS)
_LAM = flags.DEFINE_list("lam", ["0.1", "0.001", "0.01", "0.5"], "Weights of the l1 norm.", flag_values=FLAGS)
_SOLVERS = flags.DEFINE_list("solvers", list(SOLVERS), "Solvers to time.", flag_values=FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Repeats, of which the fastest counts.", lower_bound=1, flag_values=FLAGS)
_BUDGET = flags.DEFINE_float(
    "max_seconds", 10.0, "A peer that would take longer on a cell is skipped.", lower_bound=0.0, flag_values=FLAGS
)
_WORLD = flags.DEFINE_enum(
    "world", "paper", ["paper", "coherent"], "Atoms: independent, or in clusters at a cosine of about .5.", flag_values=FLAGS
)
_INPUT_DIM = flags.DEFINE_integer(
    "input_dim", None, "Dimensions; by default those of the world.", lower_bound=1, flag_values=FLAGS
)
_FRACTION = flags.DEFINE_list(
    "lam_fraction", [], "Weights as fractions of the median λ_max of the signals, instead of --lam.", flag_values=FLAGS
)
_DICTIONARY = flags.DEFINE_string(
    "dictionary", None, "An .npy file (input_dim, num_latents) of your own, with --activations.", flag_values=FLAGS
)
_ACTIVATIONS = flags.DEFINE_string(
    "activations", None, "An .npy file (n, input_dim) of your own, with --dictionary.", flag_values=FLAGS
)
_RESULTS_DIR = flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One problem: signals of some world, and a weight.

    Args:
      num_latents: atoms.
      sparsity: atoms that each signal is made of; of no matter with the user's own.
      num_samples: signals.
      lam: weight of the l1 norm.
      world: `paper`, independent Gaussian atoms; `coherent`, see `coherent`; or `own`, the user's files.
      input_dim: dimensions; None takes the paper's.
      lam_fraction: weight as a fraction of the median λ_max of the signals, instead of `lam`.
    """

    num_latents: int
    sparsity: int
    num_samples: int
    lam: float
    world: str = "paper"
    input_dim: int | None = None
    lam_fraction: float | None = None


def cells(axes: dict[str, tuple]) -> list[Cell]:
    """The base, made of the first value of each axis, and every cell that differs from it in one axis."""
    base = Cell(**{name: values[0] for name, values in axes.items()})
    others = (dataclasses.replace(base, **{name: value}) for name, values in axes.items() for value in values[1:])
    return [base, *others]


def problem(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Signals and dictionary of a cell; codes are drawn without storing a matrix of them."""
    if cell.world == "coherent":
        return coherent(cell)
    if cell.world == "own":
        return own(cell)
    input_dim = cell.input_dim or Setting(cell.num_latents, cell.sparsity, max(4, cell.num_samples)).input_dim
    assert input_dim is not None  # Setting fills it in.
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((cell.num_latents, input_dim), dtype=np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    active = [rng.choice(cell.num_latents, cell.sparsity, replace=False) for _ in range(cell.num_samples)]
    signals = np.stack([rng.uniform(size=cell.sparsity).astype(np.float32) @ atoms[chosen] for chosen in active])
    return signals, np.ascontiguousarray(atoms.T)


def coherent(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Signals and dictionary in the manner of a trained SAE: atoms in clusters of 16, two of a cluster at a cosine of about .5.

    An atom is ``N(0, I)`` plus its cluster's own ``N(0, I)``, of unit norm; a signal has `sparsity` atoms at random with
    exponential codes, 5 % of noise, and unit norm.
    """
    rng = np.random.default_rng(0)
    input_dim = cell.input_dim or max(1, cell.num_latents // 8)
    centres = rng.standard_normal((-(-cell.num_latents // 16), input_dim), dtype=np.float32)
    atoms = np.repeat(centres, 16, axis=0)[: cell.num_latents]
    atoms = atoms + rng.standard_normal(atoms.shape, dtype=np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    active = [rng.choice(cell.num_latents, cell.sparsity, replace=False) for _ in range(cell.num_samples)]
    signals = np.stack([rng.exponential(size=cell.sparsity) @ atoms[chosen] for chosen in active])
    noise = rng.standard_normal(signals.shape)
    signals /= np.linalg.norm(signals, axis=1, keepdims=True)
    signals += 0.05 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    signals /= np.linalg.norm(signals, axis=1, keepdims=True)
    return signals.astype(np.float32), np.ascontiguousarray(atoms.T)


def own(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of --activations, and the atoms of --dictionary at unit norm."""
    signals, dictionary = load(_ACTIVATIONS.value, "--activations"), load(_DICTIONARY.value, "--dictionary")
    if signals.shape[1] != dictionary.shape[0]:
        raise cli.UsageError(
            f"--activations has rows of {signals.shape[1]} numbers and --dictionary columns of {dictionary.shape[0]}; "
            "give activations (n, input_dim) and a dictionary (input_dim, num_latents)."
        )
    norms = np.linalg.norm(dictionary, axis=0)
    if not np.all(norms > 0):
        raise cli.UsageError(f"--dictionary has {np.sum(norms == 0)} columns of zeros; remove them.")
    return signals[: cell.num_samples], np.ascontiguousarray(dictionary / norms)


def load(path: str | None, flag: str) -> np.ndarray:
    """A matrix of finite float32 numbers in an .npy file."""
    assert path is not None  # The two flags go together.
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise cli.UsageError(f"{flag}={path!r} cannot be read as an .npy file: {error}; save it with numpy.save.") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise cli.UsageError(f"{flag}={path!r} must hold one matrix of real numbers; save a two-dimensional array.")
    array = array.astype(np.float32)
    if not np.all(np.isfinite(array)):
        raise cli.UsageError(f"{flag}={path!r} has NaN or infinite values; remove them.")
    return array


def weight(cell: Cell, signals: np.ndarray, dictionary: np.ndarray) -> Cell:
    """The cell with its fraction of the median λ_max turned into a weight."""
    if cell.lam_fraction is None:
        return cell
    return dataclasses.replace(cell, lam=cell.lam_fraction * float(np.median((signals @ dictionary).max(axis=1))))


def score(signals: np.ndarray, dictionary: np.ndarray, codes: np.ndarray, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Objective and duality gap of every code in float64, a few samples at a time."""
    values, gaps = [], []
    step = max(1, 2**24 // dictionary.shape[1])
    for start in range(0, len(signals), step):
        part = codes[start : start + step].astype(np.float64)
        used = np.flatnonzero(part.any(axis=0))
        rest = signals[start : start + step] - part[:, used] @ dictionary[:, used].T.astype(np.float64)
        blocks = np.array_split(dictionary, 1 + dictionary.shape[1] // 2**16, axis=1)
        pull = np.concatenate([rest @ block.astype(np.float64) for block in blocks], axis=1)
        scale = np.minimum(1, lam / np.maximum(pull.max(axis=1), 1e-300))[:, None]
        values.append(0.5 * (rest**2).sum(axis=1) + lam * np.abs(part).sum(axis=1))
        gaps.append(0.5 * (((1 - scale) * rest) ** 2).sum(axis=1) + (lam * np.abs(part) - scale * part * pull).sum(axis=1))
    return np.concatenate(values), np.concatenate(gaps)


@jax.jit
def _paper_fista(signals, dictionary, lam, iterations):
    """The published loop: textbook FISTA with the Gram matrix of all atoms."""
    gram, target = dictionary.T @ dictionary, signals @ dictionary
    step = 1 / jnp.linalg.norm(dictionary, 2) ** 2

    def body(_, carry):
        codes, point, t = carry
        new = jnp.maximum(point - step * (point @ gram - target) - step * lam, 0)
        t_new = 0.5 * (1 + jnp.sqrt(1 + 4 * t**2))
        return new, new + (t - 1) / t_new * (new - codes), t_new

    start = jnp.zeros_like(target)
    return jax.lax.fori_loop(0, iterations, body, (start, start, jnp.ones(())))[0]


def make(name: str, signals: np.ndarray, dictionary: np.ndarray, lam: float, effort: float) -> Callable[[], object]:
    """A function that codes the signals once with a solver and waits for the result.

    Raises:
      ImportError: the peer is not installed.
    """
    if name in (OURS, "fista", "plain_fista", "paper_fista", "jaxopt"):
        arrays = jnp.asarray(signals), jnp.asarray(dictionary)
        if name == "plain_fista":
            code = functools.partial(sparse_code, *arrays, lam, solver="fista", tol=None, max_iterations=int(effort))
        elif name == "paper_fista":
            code = functools.partial(_paper_fista, *arrays, lam, int(effort))
        elif name == "jaxopt":
            import jaxopt

            def fit(y, d, lam):
                smooth = lambda z, data: 0.5 * jnp.sum((data[0] - data[1] @ z) ** 2)  # noqa: E731
                solver = jaxopt.ProximalGradient(smooth, jaxopt.prox.prox_non_negative_lasso, tol=effort, maxiter=2_000)
                return jax.vmap(lambda s: solver.run(jnp.zeros(d.shape[1]), lam, (s, d)).params)(y)

            code = functools.partial(jax.jit(fit), *arrays, lam)
        else:
            code = functools.partial(sparse_code, *arrays, lam, solver=name, tol=effort)
        return lambda: jax.block_until_ready(code())
    if name == "spams":
        import spams

        columns, atoms = np.asfortranarray(signals.T), np.asfortranarray(dictionary)
        return lambda: spams.lasso(columns, D=atoms, lambda1=lam, mode=2, pos=True, numThreads=-1)
    from sklearn.decomposition import sparse_encode
    from sklearn.linear_model import Lasso

    if name == "sklearn_lars":
        return lambda: sparse_encode(signals, dictionary.T, algorithm="lasso_lars", alpha=lam, positive=True)

    def descend():
        model = Lasso(lam / dictionary.shape[0], fit_intercept=False, positive=True, tol=effort, precompute=True)
        with warnings.catch_warnings():
            # The accuracy it did reach is in the table.
            warnings.simplefilter("ignore")
            return model.fit(dictionary, signals.T).coef_

    return descend


def expect(name: str, signals: np.ndarray, dictionary: np.ndarray, lam: float, effort: float, max_seconds: float) -> float:
    """Seconds that a run will take, from runs on few samples."""
    times = []
    for count in (PROBE, 2 * PROBE):
        probe = make(name, signals[:count], dictionary, lam, effort)
        probe()
        began = time.perf_counter()
        probe()
        times.append(time.perf_counter() - began)
        if times[0] * max(1, len(signals) / PROBE) <= max_seconds:
            break
    # What does not grow with the samples, such as a Gram matrix, is told apart by the second, where it matters.
    slope = (times[-1] - times[0] if len(times) > 1 else times[0]) / PROBE
    return times[0] + max(slope, 0) * max(0, len(signals) - PROBE)


def codes_of(result) -> np.ndarray:
    """The codes in whatever a solver returns, as `(n, num_latents)`."""
    if hasattr(result, "toarray"):
        return result.toarray().T
    return np.asarray(getattr(result, "codes", result)).reshape(-1, np.shape(getattr(result, "codes", result))[-1])


def measure(cell: Cell, names: list[str], repeats: int, max_seconds: float) -> tuple[list[dict], list[str]]:
    """Time and score every solver at every effort on one cell; also says what was skipped, and why."""
    signals, dictionary = problem(cell)
    cell = weight(cell, signals, dictionary)
    runs: dict = {}
    skipped: list[str] = []
    for name in names:
        for effort in EFFORTS[name]:
            try:
                run = make(name, signals, dictionary, cell.lam, effort)
                expected = 0.0 if name == OURS else expect(name, signals, dictionary, cell.lam, effort, max_seconds)
            except ImportError as error:
                skipped.append(f"{name} skipped: {error.name} is not installed")
                break
            if expected > max_seconds:
                skipped.append(f"{name} skipped at {dataclasses.asdict(cell)}: about {expected:.0f} s a run")
                break
            runs[name, effort] = run
    floor = jax.jit(lambda y, d: y @ d)
    arrays = jnp.asarray(signals), jnp.asarray(dictionary)
    runs["product", 0] = lambda: jax.block_until_ready(floor(*arrays))
    found = {key: codes_of(run()) for key, run in runs.items()}
    seconds: dict = {key: [] for key in runs}
    for _ in range(repeats):
        for key, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[key].append(time.perf_counter() - began)
    floor_seconds = min(seconds.pop(("product", 0)))
    scores = {key: score(signals, dictionary, found[key], cell.lam) for key in seconds}
    best = np.min([value for value, _ in scores.values()], axis=0)
    spams = min(seconds["spams", 0]) if ("spams", 0) in seconds else None
    rows = []
    for (name, effort), times in seconds.items():
        value, gap = scores[name, effort]
        rows.append(
            {
                "study": NAME,
                "method": name,
                "effort": effort,
                "seed": 0,
                **dataclasses.asdict(cell),
                "input_dim": signals.shape[1],
                "num_samples": len(signals),
                "num_latents": dictionary.shape[1],
                "seconds": min(times),
                "seconds_median": statistics.median(times),
                "samples_per_second": len(signals) / min(times),
                **({"ratio_to_spams": min(times) / spams} if spams else {}),
                "ratio_to_product": min(times) / floor_seconds,
                "objective": float(value.mean()),
                "relative_gap_max": float((gap / np.maximum(value, 1e-300)).max()),
                "relative_gap_median": float(np.median(gap / np.maximum(value, 1e-300))),
                "suboptimality": float(((value - best) / np.maximum(best, 1e-300)).max()),
                "l0": float((found[name, effort] != 0).sum(axis=1).mean()),
            }
        )
    return rows, skipped


def plot(rows: list[dict]) -> Figure:
    """Median relative duality gap against seconds, a line a solver, at one cell."""
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in dict.fromkeys(row["method"] for row in rows):
        line = sorted((row["seconds"], max(row["relative_gap_median"], 1e-16)) for row in rows if row["method"] == name)
        axes.plot(*zip(*line, strict=True), marker="o", markersize=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="relative duality gap (median)")
    cell = rows[0]
    made = "own dictionary" if cell["world"] == "own" else f"{cell['world']} atoms, k = {cell['sparsity']}"
    title = f"{cell['num_samples']} samples, {cell['num_latents']} latents, {made}, λ = {cell['lam']:.3g}"
    axes.set_title(title, fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return figure


def _numbers(name: str, values: list[str]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        raise cli.UsageError(f"--{name} must list numbers, such as 0.1,0.01, but it is {','.join(values)!r}.") from None
    if not all(0 < value < float("inf") for value in numbers):
        raise cli.UsageError(f"--{name} must list positive numbers, but it is {','.join(values)!r}.")
    return numbers


def _grid() -> list[Cell]:
    """The cells that the flags ask for."""
    lams, fractions = _numbers("lam", _LAM.value), _numbers("lam_fraction", _FRACTION.value)
    if not lams:
        raise cli.UsageError("--lam must list positive numbers, but it is ''.")
    axes: dict[str, tuple] = {
        "num_latents": cli.parse_integers("num_latents", _NUM_LATENTS.value),
        "sparsity": cli.parse_integers("sparsity", _SPARSITY.value),
        "num_samples": cli.parse_integers("num_samples", _NUM_SAMPLES.value),
        **({"lam": (0.0,), "lam_fraction": fractions} if fractions else {"lam": lams}),
    }
    if min(axes["num_samples"]) < 1:
        raise cli.UsageError("--num_samples must list numbers of 1 or more.")
    if (_DICTIONARY.value is None) != (_ACTIVATIONS.value is None):
        raise cli.UsageError("--dictionary and --activations go together; give both or neither.")
    if _DICTIONARY.value is not None:
        axes |= {"num_latents": (load(_DICTIONARY.value, "--dictionary").shape[1],), "sparsity": (0,), "world": ("own",)}
    else:
        axes |= {"world": (_WORLD.value,), "input_dim": (_INPUT_DIM.value,)}
    grid = cells(axes)
    try:
        for cell in grid:
            if cell.world != "own":
                Setting(cell.num_latents, cell.sparsity, max(4, cell.num_samples))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    return grid


def main() -> None:
    unknown = sorted(set(_SOLVERS.value) - set(SOLVERS))
    if unknown or not _SOLVERS.value:
        raise cli.UsageError(f"--solvers must list some of {', '.join(SOLVERS)}, but it is {','.join(_SOLVERS.value)!r}.")
    grid = _grid()
    try:
        store = results.Store(pathlib.Path(_RESULTS_DIR.value) / NAME)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    provenance = results.provenance() | {"device": devices.describe()}
    rows: list[dict] = []
    notes: list[str] = []
    base: list[dict] = []
    for cell in grid:
        new, skipped = measure(cell, _SOLVERS.value, _REPEATS.value, _BUDGET.value)
        new = [row | provenance for row in new]
        identity = results.key({"rows": new})
        store.append([row | {"key": results.key(row), "job": identity} for row in new])
        rows += new
        base = base or new
        notes += [note for note in skipped if note not in notes]
    tables.write_table(store.directory / "summary.csv", [{name: row.get(name) for name in COLUMNS} for row in rows])
    figures.save(plot(base), store.directory / "time_accuracy")
    shown = [row for row in rows if row["effort"] == EFFORTS[row["method"]][-1]]

    def cell_of(row, name):
        return f"{row[name]:.3g}" if isinstance(row.get(name), float) else row.get(name)

    lines = [{name: cell_of(row, name) for name in HEADINGS} for row in shown]
    sys.stdout.write(tables.format_table(lines, HEADINGS) + "\n" + "".join(f"{note}\n" for note in notes))


if __name__ == "__main__":
    cli.run(main, FLAGS)

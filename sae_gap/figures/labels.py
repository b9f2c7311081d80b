"""What dictionaries, inferences, studies and metrics are called and coloured, in the order in which they are drawn.

One more line in a table here is one more thing that every figure and table can name. Nothing here needs JAX or matplotlib.
"""

import zlib
from typing import Any, NamedTuple


class Name(NamedTuple):
    """A label, and a colour where the thing is ever drawn."""

    label: str
    colour: str = ""


class Metric(NamedTuple):
    """A column of numbers.

    Attributes:
      label: of an axis or a heading.
      better: 1 if more of it is better, -1 if less, 0 if neither.
      perfect: its best value, where that is the same whatever the data.
    """

    label: str
    better: int = 0
    perfect: float | None = None


# The colours are Okabe and Ito's, told apart under any of the common colour deficiencies, and Tol's muted ones where those run
# out, which stand beside their labels or have a marker of their own.
_DICTIONARIES = {
    "raw": Name("raw signals", "#BBBBBB"),
    "pca": Name("PCA", "#888888"),
    "linear_probe": Name("linear probe", "#7F7F7F"),
    "relu": Name("ReLU SAE", "#0072B2"),
    "topk": Name("TopK SAE", "#D55E00"),
    "jumprelu": Name("JumpReLU SAE", "#009E73"),
    "mp": Name("MP SAE", "#CC79A7"),
    "batchtopk": Name("BatchTopK SAE", "#999933"),
    "matryoshka": Name("Matryoshka SAE", "#AA4499"),
    "lista_matryoshka": Name("LISTA-Matryoshka SAE", "#882255"),
    "gated": Name("gated SAE", "#661100"),
    "softplus_adam": Name("Softplus-Adam", "#E69F00"),
    "dl_fista": Name("DL-FISTA", "#56B4E9"),
    "online_dl": Name("online DL", "#332288"),
    "online_dl_incoherent": Name("online DL, incoherent", "#88CCEE"),
    "online_dl_families": Name("online DL, families", "#DDCC77"),
    "online_dl_families_pruned": Name("online DL, families, pruned", "#CC6677"),
    "spams": Name("SPAMS", "#117733"),
    "sklearn": Name("scikit-learn", "#44AA99"),
    "oracle": Name("oracle", "#000000"),
    "random": Name("random atoms", "#BBBBBB"),
    "samples": Name("training samples as atoms", "#7F7F7F"),
}
_INFERENCES = {
    "own": Name("own codes", "#7F7F7F"),
    "relu": Name("ReLU", "#0072B2"),
    "topk": Name("TopK", "#D55E00"),
    "jumprelu": Name("JumpReLU", "#009E73"),
    "lista": Name("LISTA", "#CC79A7"),
    "lista_published": Name("LISTA on its own loss", "#882255"),
    "support": Name("best values on the own support", "#56B4E9"),
    "least_squares": Name("least squares on the own support", "#E69F00"),
    "mp": Name("matching pursuit", "#AA4499"),
    "nonneg_mp": Name("non-negative matching pursuit", "#44AA99"),
    "omp": Name("OMP", "#882255"),
    "ista": Name("ISTA", "#999933"),
    "fista": Name("FISTA", "#7F7F7F"),
    "lasso": Name("certified lasso", "#000000"),
}
_STARTS = {"cold": Name("cold start", "#0072B2"), "warm": Name("warm start", "#D55E00")}
_COLUMNS = {
    "learned": Name("atoms as learned", "#0072B2"),
    "renormed": Name("atoms of unit length", "#E69F00"),
    "oracle_norms": Name("atoms of true length", "#009E73"),
}
_SOLVERS = {
    "working_set": Name("working set", "#000000"),
    "fista": Name("FISTA", "#56B4E9"),
    "plain_fista": Name("plain FISTA", "#0072B2"),
    "paper_fista": Name("published FISTA", "#332288"),
    "spams": Name("SPAMS", "#117733"),
    "spams_double": Name("SPAMS in double", "#009E73"),
    "spams_certified": Name("SPAMS certified", "#999933"),
    "sklearn_cd": Name("scikit-learn CD", "#D55E00"),
    "sklearn_lars": Name("scikit-learn LARS", "#E69F00"),
    "celer": Name("celer", "#CC79A7"),
    "skglm": Name("skglm", "#AA4499"),
    "jaxopt": Name("jaxopt", "#661100"),
    "omp": Name("OMP", "#882255"),
    "spams_omp": Name("SPAMS OMP", "#44AA99"),
    "sklearn_omp": Name("scikit-learn OMP", "#888888"),
}
_STUDIES = {
    "amortisation_gap": Name("Amortisation gap"),
    "vary_latents": Name("Number of latents"),
    "vary_samples": Name("Number of samples"),
    "vary_sparsity": Name("Sparsity"),
    "phase_transition": Name("Phase transition"),
    "large_latents": Name("Large numbers of latents"),
    "frozen_decoder": Name("Frozen decoder"),
    "dict_quality": Name("Quality of the dictionary"),
    "support_recovery": Name("Recovery of the support"),
    "warmstart_encoder": Name("Warm start from the encoder"),
    "warmstart_decoder": Name("Warm start from the decoder"),
    "lambda_sensitivity": Name("Sensitivity to λ"),
    "learning_dynamics": Name("Learning dynamics"),
    "dictionary_challenge": Name("Dictionary challenge"),
    "worlds": Name("Worlds with frequencies, correlation and hierarchy"),
    "encoder_budget": Name("Encoder budget"),
    "solver_speed": Name("Speed of solvers"),
    "training_speed": Name("Speed of training"),
    "learn_stream": Name("Learning from a stream"),
    "measure_sae": Name("Your own SAE"),
}
_TABLES = {
    "dictionary": _DICTIONARIES,
    "inference": _INFERENCES,
    "start": _STARTS,
    "columns": _COLUMNS,
    "solver": _SOLVERS,
    "study": _STUDIES,
}
# For names that are in no table; none of them is used there.
_SPARE = ("#8C564B", "#1B9E9E", "#7570B3", "#A6761D", "#66A61E", "#4477AA")

_SPLITS = {"_id": "in distribution", "_ood": "out of distribution"}
_GROUPS = ("roots", "children", "grandchildren", "great_grandchildren", "free", "frequent", "common", "uncommon", "rare")
_METRICS = {
    **{f"atom_mcc_{group}": Metric(f"matched cosine, {group.replace('_', '-')}", 1, 1.0) for group in _GROUPS},
    "mcc": Metric("MCC", 1, 1.0),
    "mcc_paper": Metric("MCC (published form)", 1, 1.0),
    "cosine": Metric("matched cosine", 1, 1.0),
    "close": Metric("share of atoms found (cosine > 0.9)", 1, 1.0),
    "angle": Metric("angle to the true atom (rad)", -1, 0.0),
    "norm_ratio": Metric("length of atoms, learned / true", 0, 1.0),
    "support_f1": Metric("support F1", 1, 1.0),
    "support_precision": Metric("support precision", 1, 1.0),
    "support_recall": Metric("support recall", 1, 1.0),
    "support_l0": Metric("matched latents active"),
    "accuracy": Metric("accuracy", 1, 1.0),
    "auc": Metric("AUC", 1, 1.0),
    "l0": Metric("latents active (L0)"),
    "mse": Metric("mean squared error", -1),
    "objective": Metric("lasso objective", -1),
    "gap": Metric("amortisation gap", -1),
    "relative_gap": Metric("relative amortisation gap", -1),
    "certificate": Metric("certificate of the optimum", -1),
    "own_certificate": Metric("certificate of the codes", -1),
    "atom_mcc": Metric("matched cosine of the pairs", 1, 1.0),
    "uniqueness": Metric("share of different features detected", 1, 1.0),
    "precision": Metric("precision of detection", 1, 1.0),
    "recall": Metric("recall of detection", 1, 1.0),
    "f1": Metric("F1 of detection", 1, 1.0),
    "detector_accuracy": Metric("accuracy of detection", 1, 1.0),
    "cut_f1": Metric("F1 of detection above the cuts", 1, 1.0),
    "cut_precision": Metric("precision of detection above the cuts", 1, 1.0),
    "cut_recall": Metric("recall of detection above the cuts", 1, 1.0),
    "fired": Metric("latents that fire in a sample"),
    "r2": Metric("variance explained, R²", 1, 1.0),
    "shrinkage": Metric("length of reconstructions, to signals", 0, 1.0),
    "dead": Metric("latents that never fire", -1),
    "absorption": Metric("recall of parents lost to their children", 0, 0.0),
    "fit_seconds": Metric("seconds to fit", -1),
    "encode_seconds": Metric("seconds to encode", -1),
    "compile_seconds": Metric("seconds to compile", -1),
    "fit_steps": Metric("steps to fit", -1),
    "samples_seen": Metric("training samples seen"),
    "flops": Metric("floating-point operations a sample", -1),
    "num_latents": Metric("number of latents"),
    "width": Metric("atoms learned"),
    "sparsity": Metric("active latents a sample, k"),
    "num_samples": Metric("number of samples"),
    "input_dim": Metric("input dimension, m"),
    "noise_db": Metric("signal-to-noise ratio (dB)"),
    "lam": Metric("λ"),
    "iterations": Metric("iterations of FISTA"),
    "depth": Metric("layers"),
    "step": Metric("step of the fit"),
    "ratio": Metric("c, for c k ln(d / k) input dimensions"),
    "per_latent": Metric("training samples for each latent"),
    "dictionary": Metric("dictionary"),
    "inference": Metric("inference"),
    "start": Metric("start"),
    "columns": Metric("atoms"),
    "seed": Metric("seed"),
}


def label(name: Any, column: str = "dictionary") -> str:
    """What a value of a column is called: `label("topk")` is "TopK SAE", `label("topk", "inference")` is "TopK".

    A name that is not in the column's table is looked up in the others, where a start, say, may be a dictionary; one that is
    nowhere is written with spaces. A number is said with its unit: `label(1_000, "num_latents")` is "1,000 latents".

    Args:
      name: a value of the column.
      column: "dictionary", "inference", "start", "columns", "solver" or "study", or a column of numbers.
    """
    if isinstance(name, int | float) and not isinstance(name, bool):
        return _COUNTED.get(column, f"{column.replace('_', ' ')} {{}}").format(_number(name))
    found = _find(name, column)
    return str(name).replace("_", " ") if found is None else found.label


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


# How a number of a column is said in a legend, above a panel or in a sentence.
_COUNTED = {
    "num_latents": "{} latents",
    "width": "{} atoms learned",
    "num_samples": "{} samples",
    "sparsity": "k = {}",
    "input_dim": "m = {}",
    "lam": "λ = {}",
    "ratio": "c = {}",
    "noise_db": "{} dB",
    "iterations": "{} iterations",
    "step": "step {}",
    "depth": "{} layers",
    "per_latent": "{} samples for each latent",
}


def colour(name: Any, column: str = "dictionary") -> str:
    """The colour of a value of a column; one in no table, or without a colour there, has a spare one that stays its own."""
    found = _find(name, column)
    return found.colour if found is not None and found.colour else _SPARE[zlib.crc32(str(name).encode()) % len(_SPARE)]


def rank(name: Any, column: str = "dictionary") -> tuple[int, Any]:
    """A key to sort values of a column by: those of its table in their order, then numbers, then other names, None last."""
    table = _TABLES.get(column, {})
    if name in table:
        return 0, list(table).index(name)
    if isinstance(name, int | float):
        return 1, name
    return (3, 0) if name is None else (2, str(name))


def _find(name: Any, column: str) -> Name | None:
    tables = [_TABLES.get(column, {}), *_TABLES.values()]
    return next((table[name] for table in tables if isinstance(name, str) and name in table), None)


def metric_label(metric: str) -> str:
    """What a column of numbers is called: `metric_label("mcc_ood")` is "MCC out of distribution"."""
    stem, split = _split(metric)
    found = _METRICS.get(stem)
    return f"{stem.replace('_', ' ') if found is None else found.label} {_SPLITS.get(split, '')}".strip()


def better(metric: str) -> int:
    """1 if more of a metric is better, -1 if less, 0 if neither or unknown."""
    return _METRICS.get(_split(metric)[0], Metric("")).better


def perfect(metric: str) -> float | None:
    """The best value of a metric, or None where it depends on the data."""
    return _METRICS.get(_split(metric)[0], Metric("")).perfect


def _split(metric: str) -> tuple[str, str]:
    suffix = next((suffix for suffix in _SPLITS if metric.endswith(suffix)), "")
    return metric.removesuffix(suffix), suffix


__all__ = ["Metric", "Name", "better", "colour", "label", "metric_label", "perfect", "rank"]

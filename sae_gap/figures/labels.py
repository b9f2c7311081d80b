"""Names and colours of dictionaries, inferences and columns, in drawing order.

Learners, encoders and metrics carry their own labels; looking them up in their folders, when first
needed, loads JAX.
"""

from functools import cache
from typing import Any
from zlib import crc32

from sae_gap import catalogue
from sae_gap.analysis import tables
from sae_gap.core import Column, Look, registry

# The order of legends.
_FAMILIES = ("baseline", "probe", "sae", "dictionary_learning", "peer", "oracle")
# Colours here and on the classes are Okabe and Ito's, which differ under all common colour
# deficiencies. After those come Tol's muted ones; they stand beside their labels or have their own
# marker.
_TABLES = {
    "start": {
        "cold": Look("cold start", "#0072B2"),
        "warm": Look("warm start", "#D55E00"),
    },
    "columns": {
        "learned": Look("atoms as learned", "#0072B2"),
        "renormed": Look("atoms of unit length", "#E69F00"),
        "oracle_norms": Look("atoms of true length", "#009E73"),
    },
}
# For names in no table; no table uses them.
_SPARE = ("#8C564B", "#1B9E9E", "#7570B3", "#A6761D", "#66A61E", "#4477AA")
_SPLITS = {"_id": "in distribution", "_ood": "out of distribution"}
# Columns that are no metrics.
_OTHERS = {
    "samples_seen": Column("training samples seen", heading="samples seen"),
    "fit_seconds": Column("seconds to fit, compilation apart", heading="fit s"),
    "encode_seconds": Column("seconds to encode", heading="encode s"),
    "flops": Column("floating-point operations a sample", heading="FLOPs"),
    "num_latents": Column("number of latents", heading="latents"),
    "sparsity": Column("active latents a sample, k", heading="k"),
    "num_samples": Column("number of samples", heading="samples"),
    "num_train": Column("training samples"),
    "input_dim": Column("input dimension, m", heading="dim"),
    "noise_db": Column("signal-to-noise ratio (dB)"),
    "lam": Column("λ"),
    "iterations": Column("iterations of FISTA"),
    "step": Column("step of the fit"),
    "ratio": Column("c, for c k ln(d / k) input dimensions"),
    "per_latent": Column("training samples for each latent"),
    "columns": Column("atoms"),
    "products": Column("products with the dictionary"),
    "cost": Column("cost, the SAE's encoder = 1"),
    "coherence": Column("largest |cosine| with another atom"),
    "matched": Column("|cosine| with the matched true atom", 1.0),
    "share": Column("% of atoms, from the least value"),
    "drop": Column("AUC lost out of distribution (0 is no loss)"),
    "place": Column(""),
    "group": Column(""),
}
# The phrase for a number of a column in a legend or above a panel.
_COUNTED = {
    "num_latents": "{} latents",
    "num_samples": "{} samples",
    "num_train": "{} training samples",
    "sparsity": "k = {}",
    "input_dim": "m = {}",
    "lam": "λ = {}",
    "noise_db": "{} dB",
}


@cache
def _dictionaries() -> dict[str, Look]:
    found: dict[str, dict[str, Look]] = {family: {} for family in _FAMILIES}
    for name, encoder in catalogue.saes().items():
        look = registry.looks_of(encoder)[name]
        recipe = vars(encoder).get("recipe", Look("", ""))
        found["sae"][name] = Look(
            recipe.label or f"{look.label} SAE", recipe.colour or look.colour
        )
    for kind in catalogue.learners().values():
        found.setdefault(kind.family, {}).update(registry.looks_of(kind))
    found["baseline"]["samples"] = Look("training samples as atoms", "#7F7F7F")
    return {name: look for looks in found.values() for name, look in looks.items()}


@cache
def _inferences() -> dict[str, Look]:
    found = {
        "own": Look("own codes", "#7F7F7F"),
        "lista_published": Look("LISTA on its own loss", "#882255"),
    }
    for kind in catalogue.encoders().values():
        found |= registry.looks_of(kind)
    return found


def _table(column: str) -> dict[str, Look]:
    if column == "dictionary":
        return _dictionaries()
    if column == "inference":
        return _inferences()
    return _TABLES.get(column, {})


@cache
def _metrics() -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for metric in catalogue.metrics().values():
        columns |= metric.columns
    return columns


def label(name: Any, column: str = "dictionary") -> str:
    """Returns the label of a column's value: `label("topk")` is "TopK SAE",
    `label("topk", "inference")` is "TopK".

    A name that is not in the column's table is looked up in the others, as a start, say, may be a
    dictionary; an unknown one is written with spaces. A number comes with its unit:
    `label(1_000, "num_latents")` is "1,000 latents". None comes with its column: "no start".

    Args:
      name: a value of the column.
      column: "dictionary", "inference", "start", or "columns", or a column of numbers.
    """
    if name is None:
        return f"no {metric_label(column)}"
    if tables.is_number(name):
        return _COUNTED.get(column, f"{metric_label(column)} {{}}").format(
            f"{name:,.7g}"
        )
    if str(name).startswith("tuned_"):
        return f"tuned {label(name.removeprefix('tuned_'), column)}"
    found = _find(name, column)
    if not found and column == "dictionary" and ":" in str(name):
        learner, _, encoder = str(name).partition(":")
        return f"{label(learner)}, {label(encoder, 'inference')}"
    return found.label if found else str(name).replace("_", " ")


def colour(name: Any, column: str = "dictionary") -> str:
    """Returns the colour of a column's value; one without a colour in a table keeps a spare one."""
    found = _find(name, column)
    if found and found.colour:
        return found.colour
    return _SPARE[crc32(str(name).encode()) % len(_SPARE)]


def rank(name: Any, column: str = "dictionary") -> tuple[int, Any]:
    """Returns a key that sorts values of a column: those of its table in their order, then numbers,
    then other names, None last.
    """
    table = _table(column) or _dictionaries()
    if name in table:
        return 0, list(table).index(name)
    if isinstance(name, int | float):
        return 1, name
    return (3, 0) if name is None else (2, str(name))


def _find(name: Any, column: str) -> Look | None:
    for other in (column, "dictionary", "inference", *_TABLES):
        table = _table(other)
        if name in table:
            return table[name]
    return None


def metric_label(metric: str) -> str:
    """Returns the label of a column of numbers: `metric_label("mcc_ood")` is "MCC out of
    distribution".
    """
    return f"{_column(metric).label} {_SPLITS.get(_split(metric), '')}".strip()


def heading(metric: str) -> str:
    """Returns the heading of a column of numbers: `heading("mcc_ood")` is "MCC OOD"."""
    named = _column(metric).heading
    if named is None:
        return tables.heading(metric)
    return f"{named} {_split(metric)[1:].upper()}".strip()


def perfect(metric: str) -> float | None:
    """Returns the best value of a metric, or None if it depends on the data."""
    return _column(metric).perfect


def _column(metric: str) -> Column:
    stem = tables.stem(metric)
    return _OTHERS.get(stem) or _metrics().get(stem) or Column(stem.replace("_", " "))


def _split(metric: str) -> str:
    return metric.removeprefix(tables.stem(metric))

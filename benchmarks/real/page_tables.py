"""Tables of rows for a page, with headings made of the names of columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.pages import Table

# What is proved, on every page.
PROVED = (
    "A duality gap proves the optimum of the penalised objective, the lasso; a k-sparse optimum is "
    "not proved, since least squares on the lasso's supports and matching pursuit carry no "
    "certificate."
)
# Words of the names of columns as headings have them.
_TERMS = {"l0": "L0", "fvu": "FVU", "lam": "λ", "kl": "KL", "ce": "CE", "level": "asked L0"}


def table(title: str, names: str, lines: Sequence[Mapping[str, Any]]) -> Table:
    """The columns of these names that some line has; what is no count is written as means are."""
    kept = [name for name in names.split() if any(line.get(name) is not None for line in lines)]
    real = {name for name in kept if any(isinstance(line.get(name), float) for line in lines)}
    headings = {}
    for name in kept:
        words = " ".join(_TERMS.get(word, word) for word in name.split("_"))
        headings[name] = words.replace("delta CE", "ΔCE")
    keys = {name: f"{name}_mean" if name in real else name for name in kept}
    shown = [{key: line.get(name) for name, key in keys.items()} for line in lines]
    return Table(title, headings, shown)

"""A table of a page or of a terminal, and one of rows whose headings are made of the names of
columns.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sae_gap.figures import tables
from sae_gap.figures.tables import Lines

# What is proved, on every page.
PROVED = (
    "A duality gap proves the optimum of the penalised objective, the lasso; a k-sparse optimum is "
    "not proved, since least squares on the lasso's supports and matching pursuit carry no "
    "certificate."
)
# Words of the names of columns as headings have them.
_TERMS = {
    "ood": "OOD",
    "id": "ID",
    "l0": "L0",
    "fvu": "FVU",
    "lam": "λ",
    "kl": "KL",
    "ce": "CE",
    "auc": "AUC",
    "level": "asked L0",
}


class Table(NamedTuple):
    """Lines of a summary.

    Attributes:
      title: what the lines are.
      columns: the headings of metrics and of columns of the lines, in order.
      lines: of `tables.summarise`; with none, the title is all that is shown.
    """

    title: str
    columns: Mapping[str, str]
    lines: Lines

    def __str__(self) -> str:
        """The table as a terminal shows it."""
        if not self.lines:
            return self.title
        return f"{self.title}\n{tables.format_table(self.lines, self.columns)}"


def table(title: str, names: str, lines: Lines) -> Table:
    """The columns of these names that some line has; what is no count is written as means are, with
    its `<name>_half` for a deviation.
    """
    kept = [name for name in names.split() if any(line.get(name) is not None for line in lines)]
    real = {name for name in kept if any(isinstance(line.get(name), float) for line in lines)}
    headings = {
        name: " ".join(_TERMS.get(word, word) for word in name.split("_")).replace(
            "delta CE", "ΔCE"
        )
        for name in kept
    }
    keys = {name: f"{name}_mean" if name in real else name for name in kept}
    keys |= {f"{name}_half": f"{name}_sd" for name in real}
    shown = [{key: line.get(name) for name, key in keys.items()} for line in lines]
    return Table(title, headings, shown)

"""Tables for a page or a terminal, also of rows, with headings made of the columns' names."""

from collections.abc import Mapping
from typing import NamedTuple

from sae_gap.figures import tables
from sae_gap.figures.tables import Lines

# What the suite proves, for every page.
PROVED = (
    "A duality gap proves the optimum of the penalised objective, the lasso; a k-sparse optimum is "
    "not proved, since least squares on the lasso's supports and matching pursuit carry no "
    "certificate."
)
# Words of column names, as written in headings.
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
      title: title of the lines.
      columns: the headings of metrics and of columns of the lines, in order.
      lines: lines of `tables.summarise`; without any, only the title is shown.
    """

    title: str
    columns: Mapping[str, str]
    lines: Lines

    def __str__(self) -> str:
        """The table for a terminal."""
        if not self.lines:
            return self.title
        return f"{self.title}\n{tables.format_table(self.lines, self.columns)}"


def heading(name: str) -> str:
    """The name of a column, as written in headings."""
    return " ".join(_TERMS.get(word, word) for word in name.split("_")).replace("delta CE", "ΔCE")


def table(title: str, names: str, lines: Lines) -> Table:
    """A table of the named columns that some line has; columns of non-integers are written as
    means, with their `<name>_half` as deviation.
    """
    kept = [name for name in names.split() if any(line.get(name) is not None for line in lines)]
    real = {name for name in kept if any(isinstance(line.get(name), float) for line in lines)}
    headings = {name: heading(name) for name in kept}
    keys = {name: f"{name}_mean" if name in real else name for name in kept}
    keys |= {f"{name}_half": f"{name}_sd" for name in real}
    shown = [{key: line.get(name) for name, key in keys.items()} for line in lines]
    return Table(title, headings, shown)

"""The figures that studies share, as declarations: which column runs along which axis."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sae_gap import figures
from sae_gap.analysis import Lines, splits
from sae_gap.storage import CELL, grouped


class Drawing(NamedTuple):
    """A figure of a study.

    Args:
      name: name of the function of `sae_gap.figures` that draws rows.
      options: its options.
      rows: selects the rows to draw.
      cells: columns; each combination of their values has its own figure.
    """

    name: str
    options: Mapping[str, Any] = {}
    rows: Callable[[Lines], Lines] = list
    cells: tuple[str, ...] = ()

    def draw(self, rows: Lines) -> Any:
        """The figure, or None if the rows have nothing to show."""
        return getattr(figures, self.name)(self.rows(rows), **self.options)


def inference_along(metric: str = "mcc_ood", *, style: str) -> dict[str, Drawing]:
    """A score of each dictionary along the number of latents, a panel a dictionary and a line a
    kind of inference.
    """

    def compared(rows: Lines) -> Lines:
        cold = [row for row in rows if row.get("start") != "warm"]
        names = [name for name, _ in grouped(cold, ("dictionary", style))]
        # A dictionary with one kind has nothing to compare.
        return [row for row in cold if names.count(row["dictionary"]) > 1]

    options = {"x": "num_latents", "y": metric, "line": style, "panel": "dictionary"}
    return {f"{metric}_by_{style}": Drawing("curve", options, compared)}


def along(
    x: str,
    metrics: Sequence[str],
    rows: Callable[[Lines], Lines] = list,
    cells: tuple[str, ...] = (),
    **options: str,
) -> dict[str, Drawing]:
    """Scores along a column, a panel a number of latents unless `options` name another; those with
    cells are named after both.
    """
    fixed = {"x": x, "panel": "num_latents", **options}
    found = {}
    for metric in metrics:
        logy = metric in ("relative_gap_id", "mse_id")
        name = f"{metric}_by_{x}" if cells else metric
        found[name] = Drawing(
            "curve", {**fixed, "y": metric, "logy": logy}, rows, cells
        )
    return found


def recovery_along(x: str) -> dict[str, Drawing]:
    """MCC out of distribution, and the matched cosine, of each dictionary along a size."""
    # The published form of the MCC has its own figure.
    return along(x, ("mcc_ood", "mcc_paper_ood", "cosine"), panel="")


def parts(
    score: str = "mcc_ood", name: str = "loss_parts", cells: tuple[str, ...] = CELL
) -> Drawing:
    """The parts of what each SAE lacks in a score."""
    return Drawing(name, {"loss": score}, lambda rows: splits(rows, [score]), cells)


def plain(name: str, cells: tuple[str, ...] = CELL) -> dict[str, Drawing]:
    """A figure of `sae_gap.figures` that needs only rows, by its name."""
    return {name: Drawing(name, cells=cells)}

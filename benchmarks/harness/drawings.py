"""The figures that studies share, as declarations: which column runs along which axis."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sae_gap.storage import results

Rows = Sequence[results.Row]
Lines = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of a study.

    Args:
      draw: from rows, and from the published lines that they may be held against, to a figure or None.
      cells: columns whose every combination of values has a figure of its own.
    """

    draw: Callable[[Rows, Lines], Any]
    cells: tuple[str, ...] = ()


def _curve(rows: Rows, lines: Lines, **options: Any) -> Any:
    # Importing matplotlib takes as long as everything else in --help.
    from sae_gap import figures

    return figures.curve(rows, published=lines, **options)


def recovery_along(x: str) -> dict[str, Drawing]:
    """MCC out of distribution, and the matched cosine, of each dictionary along a size."""
    # Published lines have the published form of the MCC, which therefore has a figure of its own.
    scores = ("mcc_ood", "mcc_paper_ood", "cosine")
    return {score: Drawing(functools.partial(_curve, x=x, y=score, logx=True)) for score in scores}


def inference_along(metric: str = "mcc_ood", *, style: str) -> dict[str, Drawing]:
    """A score of each dictionary along the number of latents, a panel a dictionary and a line a kind of inference."""

    def draw(rows: Rows, lines: Lines) -> Any:
        cold = [row for row in rows if row.get("start") != "warm"]
        kinds: dict[str, set[Any]] = {}
        for row in cold:
            kinds.setdefault(row["dictionary"], set()).add(row.get(style))
        # A dictionary of one kind has nothing to compare.
        compared = [row for row in cold if len(kinds[row["dictionary"]]) > 1]
        return _curve(compared, lines, x="num_latents", y=metric, line=("dictionary", style), panel="dictionary", logx=True)

    return {f"{metric}_by_{style}": Drawing(draw)}


def along(
    x: str, metrics: Sequence[str], *, line: str = "dictionary", style: str | None = None, logx: bool = False, only: str = ""
) -> dict[str, Drawing]:
    """Scores along iterations, steps or weights, a panel a number of latents."""

    def draw(rows: Rows, lines: Lines, metric: str) -> Any:
        kept = [row for row in rows if row.get("inference") == only] if only else list(rows)
        lined: Any = line if style is None else (line, style)
        options: dict[str, Any] = {"logy": metric in ("relative_gap_id", "mse_id"), "levels": ("oracle",)}
        return _curve(kept, lines, x=x, y=metric, line=lined, panel="num_latents", logx=logx, **options)

    return {metric: Drawing(functools.partial(draw, metric=metric)) for metric in metrics}


def stairs(metric: str = "mcc_ood") -> dict[str, Drawing]:
    """Where each SAE loses its distance to the oracle."""

    def draw(rows: Rows, lines: Lines) -> Any:
        from sae_gap import figures

        return figures.decomposition(rows, metric)

    return {"decomposition": Drawing(draw, results.CELL)}


def cosines() -> dict[str, Drawing]:
    """How well the atoms of each dictionary match the true ones."""

    def draw(rows: Rows, lines: Lines) -> Any:
        from sae_gap import figures

        return figures.matched_cosines([row for row in rows if row.get("columns") in (None, "learned")])

    return {"matched_cosines": Drawing(draw, results.CELL)}


def plain(name: str, cells: tuple[str, ...] = ()) -> dict[str, Drawing]:
    """A figure of `sae_gap.figures` that asks for rows alone, by its name."""

    def draw(rows: Rows, lines: Lines) -> Any:
        from sae_gap import figures

        return getattr(figures, name)(rows)

    return {name: Drawing(draw, cells)}


def phase_maps() -> dict[str, Drawing]:
    """MCC over the number of latents and the dimension, a panel a method, a figure a sparsity."""

    def ratio(row: results.Row) -> float:
        return row["input_dim"] / (row["sparsity"] * math.log(row["num_latents"] / row["sparsity"]))

    def draw(rows: Rows, lines: Lines) -> Any:
        from sae_gap import figures

        placed = [row | {"ratio": round(2 * ratio(row)) / 2} for row in rows]
        options: dict[str, Any] = {"bound": lambda row: 2.0, "bound_label": "c = 2, the dimension of the other studies"}
        return figures.heat_map(placed, x="num_latents", y="ratio", value="mcc_ood", panel="dictionary", **options)

    return {"phase_map": Drawing(draw, ("sparsity",))}

"""What a dictionary explains: the FVU of its codes, and the report beside controls."""

import tempfile
from collections.abc import Iterable
from typing import NamedTuple

from sae_gap.analysis import Comparison, compare_dictionaries, curve_lines, tables
from sae_gap.core import Model
from sae_gap.data import Activations, HeldOut
from sae_gap.measure import Plan, Stages, methods_of, run
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store

# The most rows that are scored.
SCORED = 5_000


class Report(NamedTuple):
    """The result of `LearnedDictionary.report`.

    Attributes:
      curves: a line for the dictionary and each control, from `sae_gap.measure.curve_lines`.
      best: the name of the best control; None without controls.
      lead: compares what the dictionary and that control explain.
    """

    curves: list[Row]
    best: str | None
    lead: Comparison | None

    def __repr__(self) -> str:
        names = {
            "dictionary": "dictionary",
            "at_l0": "L0",
            "curve_fvu": "FVU, lasso",
            "curve_refit_fvu": "FVU, least squares",
            "best_fvu": "FVU, best codes",
        }
        table = tables.format_table(self.curves, names)
        if self.lead is None:
            return table
        return f"{table}\n\nBeside the best control, {self.best}: {self.lead}"


def make_report(plan: Plan) -> Report:
    """Measures one dictionary and its controls, as `sae-gap measure` does."""
    with tempfile.TemporaryDirectory() as folder:
        measured = run(plan, Store(folder))
    curves = curve_lines(measured)
    check_reached(curves[0]["at_l0"], plan.l0, curves[0]["samples"])
    if not plan.controls:
        return Report(curves, None, None)
    best = min(curves[1:], key=lambda line: line["best_fvu"])["dictionary"]
    return Report(curves, best, compare_dictionaries(measured, plan.saes[0].name, best))


def score_codes(
    model: Model,
    codes: Iterable[str],
    l0: float,
    rows: Activations,
    *,
    keep_outliers: bool,
    inputs: Activations | None = None,
) -> dict[str, Row]:
    """Returns a row for each of some codes on the atoms of a model, by name.

    Args:
      model: the dictionary, and the encoder for "own".
      codes: the names of the codes.
      l0: mean L0 of codes that take one.
      rows: the rows; at most `SCORED` are scored.
      keep_outliers: whether outlier tokens count.
      inputs: what a transcoder's own codes read.
    """
    source = HeldOut(
        rows,
        samples=SCORED,
        keep_outliers=keep_outliers,
        held_out=rows,
        inputs=inputs,
    )
    methods = methods_of(SAE.of_model(model, name="learned").given, codes, l0)
    with tempfile.TemporaryDirectory() as folder:
        measured = Stages("learned", Store(folder), shown=False).run(source, methods)
    return {row["codes"]: row for row in measured}


def check_reached(reached: float, l0: float | None, samples: int) -> None:
    """Raises a ValueError if no weight gives codes of the mean L0 that was asked for."""
    assert l0 is not None
    if abs(reached - l0) > max(0.05 * l0, 1 / samples):
        raise ValueError(
            f"no weight gives codes of a mean L0 of {l0:g} on these activations, only of "
            f"{reached:.3g}; ask for less."
        )

"""What rows say, computed once more in plain NumPy, and tables held to it column by column."""

import numpy as np
import scipy.stats
from numpy.linalg import norm
from pytest import approx

PAIRS = {
    "amortisation": ("own", "best"),
    "values": ("own", "kept"),
    "support": ("kept", "best"),
    "selection": ("kept", "proposed"),
    "screening": ("proposed", "best"),
    "dictionary": ("best", "last"),
}


def held(lines, wanted):
    """Holds every filled cell of every line to a reference, which must know all of them."""
    assert len(lines) == len(wanted)
    for line, known in zip(lines, wanted, strict=True):
        cells, known = (
            {name: value for name, value in each.items() if value not in (None, "")}
            for each in (line, known)
        )
        assert cells.keys() == known.keys(), cells.keys() ^ known.keys()
        for name, value in known.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                wanted = approx(value, rel=1e-6, abs=1e-12)
                assert float(cells[name]) == wanted, name
            else:
                assert str(cells[name]) == str(value), name


def ends(difference, unit):
    """Σ difference / Σ unit, and its 95 % interval: each unit left out, and Student's law."""
    difference = np.asarray(difference, float)
    unit = np.asarray(unit, float)
    mean = difference.sum() / unit.sum()
    each = range(len(unit))
    without = [np.delete(difference, i).sum() / np.delete(unit, i).sum() for i in each]
    count = (unit**2).sum() ** 2 / (unit**4).sum()
    half = scipy.stats.t.ppf(0.975, max(count - 1, 1)) * norm(np.array(without) - mean)
    return mean, mean - half, mean + half


def split(unit, share=False, **losses):
    """The parts of a loss, of sums by unit of the codes between which they lie."""
    line = {}
    for part, (worse, better) in PAIRS.items():
        if worse in losses and better in losses:
            mean, low, high = ends(losses[worse] - losses[better], unit)
            line |= {f"{part}_part": mean, f"{part}_low": low, f"{part}_high": high}
    last = losses.get("last", losses["best"])
    line |= {"total": losses["own"].sum() / unit.sum(), "rest": last.sum() / unit.sum()}
    if share:
        _, low, high = ends(losses["own"] - losses["best"], losses["own"])
        line |= {"share_low": low, "share_high": high}
    return line | {"units": len(unit)}


def halves(line):
    """The cells of a table of parts: each with half its interval."""
    shown = {name: line[name] for name in ("total", "rest")}
    for part in PAIRS:
        if f"{part}_part" in line:
            shown[f"{part}_part_mean"] = line[f"{part}_part"]
            shown[f"{part}_part_sd"] = (line[f"{part}_high"] - line[f"{part}_low"]) / 2
    return {
        name if "part" in name else f"{name}_mean": value
        for name, value in shown.items()
    }

"""A measurement as jobs whose rows go to a store, so that a run that was stopped goes on where it
was.

Many processes share the folder of the store, and the chunks of the gap between them.
"""

import functools
from collections.abc import Collection, Sequence

import numpy as np

from sae_gap.core.identity import describe
from sae_gap.core.rows import squares
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.measure.atom_statistics import agreement, describe_atoms
from sae_gap.measure.chunk import measure_chunk
from sae_gap.measure.coding import (
    DENSEST,
    by_encoder,
    chunks,
    code,
    find_weight,
    identity,
    lasso,
    least_squares,
    screened,
)
from sae_gap.measure.controls import CONTROLS, control_sae
from sae_gap.measure.curve import measure_curve, measure_point
from sae_gap.measure.plan import STUDY, Plan
from sae_gap.measure.rows import pool_size
from sae_gap.measure.training import default_learner
from sae_gap.runtime import progress
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage.results import Row, Store

# Weights of a curve, in units of the one at which codes are as sparse as wanted.
SPREAD = (2.0, 1.4, 1.0, 0.7)
# Mean L0, as a share of the dimensions, at which a dictionary without an encoder is measured.
USUAL = 1 / 12


def run(plan: Plan, store: Store, *, show_progress: bool = True) -> list[Row]:
    """Measures all that a plan holds, or reads from the store what has been measured before.

    Processes that `distributed.start` has joined all call this alike and share the store's folder.

    Args:
      plan: what to measure.
      store: where rows go.
      show_progress: whether to show a line of progress on a terminal or in a notebook.

    Returns:
      The rows of the plan, whether measured now or before. Their `kind` says what they hold:
      "documents" (of the scored samples), "load", "weight", "curve", "outliers", "gap" (one a
      chunk, to be summed by `gap_lines`), "atoms" or "agreement".

    Raises:
      ValueError: activations cannot be read, or something does not fit; the message says how to
        mend it.
    """
    plan.check()
    first = plan.saes[0]
    told = {sae.name: [sae.name, identity(sae, plan.scored, plan.left_out)] for sae in plan.saes}
    named = {name: plan.settings[name] for name in ("study", "activations", "seed")}

    def once(settings, measure, *given, parts=({},)):
        """The rows of a job of this plan."""
        return store.once(
            plan.settings | settings,
            lambda **part: [named | row for row in measure(*given, **part)],
            parts,
        )

    def curve(sae, common):
        settings = {"kind": "curve", "sae": told[sae.name], "lam": plan.lam, "l0": plan.l0}
        settings["pursuit"] = BatchPursuit.version
        return once(settings | {"common": common}, _curve, plan, sae, own[sae.name], common)

    rows = once({"kind": "documents"}, _documents, plan)
    own = {
        sae.name: once({"kind": "encoder", "sae": told[sae.name]}, _encoder, plan, sae)[0]
        for sae in plan.saes
    }
    # A dead encoder says nothing of where dictionaries are to be compared.
    leader = next((sae for sae in plan.saes if not own[sae.name]["dead"]), first)
    common = curve(leader, None)[0]["common_l0"]
    with progress.bar(len(plan.saes) + len(plan.controls), STUDY, shown=show_progress) as line:
        for sae in plan.saes:
            about = {"sae": told[sae.name]}
            if sae.name in plan.loaded:
                load = {"kind": "load", **plan.loaded[sae.name].columns, **sae.columns}
                rows += once(about | {"load": load}, list, [load])
            measured = curve(sae, None if sae is leader else common)
            lam = measured[0]["lam"]
            parts = [
                {"start": part.start, "stop": part.stop}
                for part in chunks(len(plan.places), sae.num_latents)
            ]
            rows += measured + once(
                {"kind": "gap", "lam": lam} | about, _gap, plan, sae, lam, parts=parts
            )
            line.update(1)
        for name in plan.controls:
            settings = {
                "kind": "control",
                "control": name,
                "first": told[first.name],
                "common": common,
                "learner": describe(default_learner(first.num_latents, common, first.input_dim)),
            }
            rows += once(settings, _control, plan, name, common)
            line.update(1)
    for other in plan.saes[1:]:
        if other.model.decoder.shape == first.model.decoder.shape:
            settings = {"kind": "agreement", "saes": [told[first.name], told[other.name]]}
            rows += once(settings, _agreement, first, other)
    return rows


def _documents(plan: Plan) -> list[Row]:
    """How many of the scored samples each document has, their squared distance from the mean of
    all, and outlier tokens.
    """
    members, named = plan.members
    outliers = plan.whole.outliers
    row = {
        "kind": "documents",
        "named": named,
        "samples": np.bincount(members),
        "variance": np.bincount(members, squares(plan.scored - plan.mean)),
        "outliers": str(outliers) if len(outliers.rows) else None,
        "outliers_kept": plan.keep_outliers,
    }
    return [row]


def _encoder(plan: Plan, sae: SAE) -> list[Row]:
    """The mean L0 of an encoder, if there is one, and whether it is dead."""
    own = None if sae.model.encode is None else code(sae, plan.scored, by_encoder(sae))
    dead = own is not None and own.dead
    return [{"kind": "encoder", "own_l0": own and own.l0, "dead": dead, **sae.columns}]


def _curve(plan: Plan, sae: SAE, own: Row, common: float | None) -> list[Row]:
    """The weights of an SAE, its curve around that of the gap, its atoms, and what it leaves of
    outlier tokens.

    Args:
      plan: what to measure.
      sae: one of its SAEs.
      own: what `_encoder` says.
      common: mean L0 at which dictionaries are compared; None for the one that sets it.
    """
    x, densest = plan.scored, DENSEST * sae.input_dim
    own_l0, dead = own["own_l0"], own["dead"]
    find = functools.cache(lambda l0: find_weight(sae, x, min(l0, densest)))
    own_lam = find(own_l0) if own_l0 else None
    shared = common or plan.l0 or (None if dead else own_l0)
    common_lam = find(shared) if shared else plan.lam or find(USUAL * sae.input_dim)
    lam = plan.lam or (common_lam if plan.l0 else own_lam or common_lam)
    compared = {own_lam or lam, common_lam}
    proposed = None if own_lam is None or dead or sae.affine is None else own_lam
    points = _points(plan, sae, lam, compared, proposed)
    reached = {row["lam"]: row["l0"] for row in points if row["codes"] == "lasso"}
    weight = {
        "kind": "weight",
        "lam": lam,
        "l0": reached[lam],
        "own_l0": own_l0,
        "dead": dead,
        "own_lam": own_lam,
        "common_l0": common or reached[common_lam],
        "common_lam": common_lam,
        **sae.columns,
    }
    for point in points:
        point["dead"] = dead and point["codes"] == "own"
    outliers = _outliers(plan, sae, own_lam or common_lam, points) if len(plan.left_out) else []
    return [weight, *points, _atoms(sae), *outliers]


def _points(
    plan: Plan, sae: SAE, lam: float, compared: Collection[float], proposed: float | None = None
) -> list[Row]:
    """The curve around a weight, the encoder's codes, and screened pursuits, which signed codes do
    not have.

    Args:
      plan: what to measure.
      sae: one of its SAEs, or a control.
      lam: the weight.
      compared: weights at whose L0 codes are compared: those of the lasso and of a pursuit.
      proposed: that of them at whose L0 the pursuit is also among what the encoder proposes.
    """
    x, documents = plan.scored, plan.members[0]
    lams = {lam * share for share in SPREAD} | {*compared}
    points, own = measure_curve(sae, x, list(lams), documents)
    found = [("lasso", point) for point in points] + ([("own", own)] if own else [])
    for point in points if not sae.signed else ():
        for codes, at in (("screened", compared), ("proposed", {proposed})):
            if point.lam in at and point.l0 > 0:
                coding = code(sae, x, screened(sae, x, point.l0, proposed=codes == "proposed"))
                found.append((codes, measure_point(sae, x, coding, point.lam, documents)))
    about = {"kind": "curve", "samples": len(x), **sae.columns}
    return [{**about, "codes": codes, **point._asdict()} for codes, point in found]


def _outliers(plan: Plan, sae: SAE, lam: float, points: Sequence[Row]) -> list[Row]:
    """What the scored samples leave unexplained together with outlier tokens, after least squares
    on the supports.
    """
    x = plan.left_out
    every = np.concatenate([plan.scored, x]).astype(np.float64)
    variance, fvus = squares(every - every.mean(axis=0)).sum(), Row()
    for point in points:
        if point["codes"] == "own" or (point["codes"], point["lam"]) == ("lasso", lam):
            coding = code(sae, x, by_encoder(sae) if point["codes"] == "own" else lasso(sae, lam))
            rest = x - code(sae, x, least_squares(sae, coding.codes)).guess
            fvus[f"{point['codes']}_fvu"] = (
                sum(point["refit_errors"]) + squares(rest).sum()
            ) / variance
    return [{"kind": "outliers", "rows": len(x), **fvus, **sae.columns}]


def _gap(plan: Plan, sae: SAE, lam: float, start: int, stop: int) -> list[Row]:
    """The gap of an SAE on a chunk of the scored samples."""
    rows, held = plan.places[start:stop], plan.parts[1]
    documents = None if held.documents is None else held.documents[rows]
    gap = measure_chunk(sae, plan.scored[start:stop], plan.mean, lam, held.numbers[rows], documents)
    return [{"kind": "gap", "lam": lam, **gap, **sae.columns}]


def _control(plan: Plan, name: str, common: float) -> list[Row]:
    """A control of the width of the first SAE, at the L0 at which dictionaries are compared."""
    train = plan.parts[0]
    sae = control_sae(name, train, plan.saes[0], common, plan.seed)
    lam = find_weight(sae, plan.scored, min(common, DENSEST * sae.input_dim))
    count = pool_size(train)
    weight = {
        "kind": "weight",
        "lam": lam,
        "common_l0": common,
        "common_lam": lam,
        "dead": False,
        "learned_from": (count, CONTROLS[name].visits(sae.num_latents) / count),
        **sae.columns,
    }
    return [
        weight,
        *_points(plan, sae, lam, {lam}),
        _atoms(sae),
        *_agreement(plan.saes[0], sae),
    ]


def _atoms(sae: SAE) -> Row:
    return {"kind": "atoms", **describe_atoms(sae.unit_dictionary)._asdict(), **sae.columns}


def _agreement(one: SAE, other: SAE) -> list[Row]:
    return [
        {"kind": "agreement", "other": other.name, "cosine": agreement(other, one), **one.columns}
    ]

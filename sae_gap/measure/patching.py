"""How many nats are lost to an encoder's values, to its support and to the dictionary.

The reconstructions by several codes of the same rows are put back into the model, on each
dictionary:

  own          the encoder's codes
  own_refit    least squares on their supports
  lasso        the certified lasso, at the L0 of the encoder
  lasso_refit  least squares on its supports
  omp          least squares on the supports of orthogonal matching pursuit, at that L0
  screened     least squares on what stays of a screened pursuit of twice as many atoms, where one
               threshold leaves those out whose loss costs least (`coding.screened`), at that L0
  proposed     the same among the 4 ⌈L0⌉ latents that the encoder's pre-activations propose
  weighted     the screened pursuit of `‖A (x - b - D z)‖²`, `AᵀA = I + F / mean(diag F)`, F being
               what an error costs in nats (`Downstream.sensitivity`). Where one of the SAEs whitens
               activations, or normalises each, none has it, as these cannot

With L(·) the loss of each, an encoder's loss is the sum of

  values part      L(own) - L(own_refit)
  support part     L(own_refit) - L(best), which is the sum of
    selection part   L(own_refit) - L(proposed): the latent was proposed, and not taken
    screening part   L(proposed) - L(best): it was not proposed
  dictionary part  L(best) - L(best on the best dictionary at hand)
  rest             L(best on the best dictionary at hand)

where best is lasso_refit, omp, screened or weighted, whichever has the smallest divergence: better
codes may exist. Where it is weighted, the screening part has what its norm is worth, and its values
too; of the FVU that part may be negative. The support part stays whole for an encoder that is not
one affine map and a rule of which values stay; screened and proposed are not measured of signed
codes. The best dictionary is that whose best codes have the least divergence at the asked L0
nearest the encoder's. An encoder
whose L0 is above a quarter of the dimensions is not split. An encoder that is dead, as
`Coding.dead` tells, is not split either. Intervals of 95 % are those of
`sae_gap.measure.comparison`, over documents.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sae_gap.core.normalise import Whitening
from sae_gap.core.types import Model
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.measure.coding import (
    DENSEST,
    Coder,
    Coding,
    by_encoder,
    code,
    find_weight,
    identity,
    lasso,
    least_squares,
    least_squares_on,
    pursued,
    screened,
)
from sae_gap.measure.comparison import FEW_DOCUMENTS, compare
from sae_gap.measure.downstream import Downstream
from sae_gap.runtime import progress
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage.results import Row, Store

# The name of the study in its rows.
STUDY = "downstream"
# Raised whenever a row comes to hold something else.
FORM = 8
CODES = ("own", "own_refit", "lasso", "lasso_refit", "omp", "screened", "proposed", "weighted")
# What is split: its name, the column of its sums by document, and that of what they are divided by.
LOSSES = {"kl": ("kl_sums", "tokens"), "ce": ("ce_sums", "tokens"), "fvu": ("errors", "variance")}
PARTS = ("values", "support", "dictionary")
# What the support part is the sum of, where it is known.
SUPPORT = ("selection", "screening")
# Codes that are the best there are for a dictionary, of which the better ones count.
BEST = ("lasso_refit", "omp", "screened", "weighted")
# The largest L0 of a full pursuit: its time grows with the square, and beyond takes longer than all
# else.
MOST_PURSUED = 64
# An L0 within this share of one that is asked for, or else of a whole number, is taken for it: SAEs
# of like L0s then share what is measured of the best dictionary.
ALIKE = 0.01


@dataclasses.dataclass(frozen=True)
class Patching:
    """What to put back into a model, and where the rows go.

    Attributes:
      downstream: the model on some texts.
      identity: tells the model, the layer and the texts from others.
      store: a row for each dictionary, codes and L0 is written to it as soon as it is measured.
      l0: mean L0s at which dictionaries are compared.
      codes: of `CODES`.
      metric: what tells the texts that "weighted" takes F from, and what finds it.
    """

    downstream: Downstream
    identity: str
    store: Store
    l0: Sequence[float]
    codes: Sequence[str] = CODES
    metric: tuple[str, Callable[[], Float[np.ndarray, "dim dim"]]] | None = None

    def run(
        self,
        saes: Sequence[SAE],
        controls: Mapping[str, tuple[Row, Callable[[], SAE]]] = {},
        *,
        show_progress: bool = True,
    ) -> list[Row]:
        """Measures all of them, or reads what is stored.

        Args:
          saes: SAEs and dictionaries.
          controls: by name, what decides a control, and what makes it when something has to be
            measured of it.
          show_progress: whether to show a line of progress.

        Returns:
          Rows of kind "clean" (one, of the model without a change) and "score".
        """
        made: dict[str, Any] = {
            sae.name: ({"sae": identity(sae, self.downstream.activations)}, lambda sae=sae: sae)
            for sae in saes
        }
        made |= controls
        rows = self._once({"kind": "clean"}, self._clean)
        signed = {sae.name: sae.signed for sae in saes}
        # Those that whiten, or normalise each activation, measure errors in other units.
        reshaped = any(
            sae.normalisation.per_sample or isinstance(sae.normalisation, Whitening) for sae in saes
        )
        proposing = {sae.name for sae in saes if sae.affine is not None and not sae.signed}
        with progress.bar(len(saes) + len(made) * len(self.l0), STUDY, shown=show_progress) as line:
            sparse: list[Row] = []
            for sae in saes:
                if sae.model.encode is not None:
                    scored = [
                        row | self._placed(row["level"])
                        for row in self._score(sae.name, made[sae.name], "own")
                    ]
                    # Codes denser than that are not sparse.
                    sparse += [
                        row
                        for row in scored[:1]
                        if not row["dead"] and row["level"] <= DENSEST * sae.input_dim
                    ]
                    rows += scored
                line.update(1)
            levels = [*self.l0, *(row["level"] for row in sparse)]
            steps = max((_steps(level) for level in levels if level <= MOST_PURSUED), default=1)
            pursue = functools.cache(
                lambda name: pursued(made[name][1](), self.downstream.activations, steps)
            )

            def best(name: str, level: float) -> list[Row]:
                """The pursuits at a mean L0, and the certified codes as they are and refitted."""
                kinds = ["omp", "lasso"] if level <= MOST_PURSUED else ["lasso"]
                # Controls have codes of the signs of the first.
                if not signed.get(name, saes[0].signed):
                    kinds.append("screened")
                    if self.metric is not None and not reshaped:
                        kinds.append("weighted")
                return [
                    row
                    for kind in kinds
                    for row in self._score(name, made[name], kind, level, pursue)
                ]

            for name in made:
                for level in self.l0:
                    rows += best(name, level)
                    line.update(1)
            for row in sparse:
                name, near = row["dictionary"], best_at(rows, row["near"]) or row
                if name in proposing:
                    rows += self._score(name, made[name], "proposed", row["level"])
                measured = {
                    done["dictionary"]
                    for done in rows
                    if _is_best(done) and done["level"] == row["level"]
                }
                for name in made:
                    if name in {row["dictionary"], near["dictionary"]} - measured:
                        rows += best(name, row["level"])
        return rows

    def _placed(self, level: float) -> Row:
        """The asked L0 nearest that of an encoder, by their ratio, and the one at which it is
        split.
        """
        near = (
            min(self.l0, key=lambda asked: max(asked, level) / min(asked, level))
            if level
            else self.l0[0]
        )
        taken = next(
            (each for each in (near, round(level)) if abs(level - each) <= ALIKE * each), level
        )
        return {"near": near, "level": taken}

    def _score(
        self,
        name: str,
        made: tuple[Row, Callable[[], SAE]],
        kind: str,
        level: Any = None,
        pursue: Any = None,
    ) -> list[Row]:
        """The scores of codes of a kind, and of those refitted."""
        settings, make = made
        wanted = [codes for codes in (kind, f"{kind}_refit") if codes in self.codes]

        def measure() -> Iterator[Row]:
            sae, x, proof = make(), self.downstream.activations, {}
            if kind == "own":
                coder = by_encoder(sae)
            elif kind == "omp":
                coder = least_squares_on(sae, pursue(name)[:, : _steps(level)])
            elif kind == "lasso":
                proof["lam"] = find_weight(sae, x[self.downstream.replaced], level)
                coder = lasso(sae, proof["lam"])
            elif kind == "weighted":
                coder = self._weighted(sae, level)
            else:
                counted, proposed = self.downstream.replaced, kind == "proposed"
                coder = screened(sae, x, level, counted, proposed=proposed)
            coding = code(sae, x, coder)
            if coding.certificate is not None:
                proof["certificate"] = coding.certificate
            about = {
                "kind": "score",
                "dead": kind == "own" and coding.of(self.downstream.replaced).dead,
                **sae.columns,
                "level": self._l0(coding) if level is None else level,
            }
            for codes in wanted:
                shown = coding if codes == kind else code(sae, x, least_squares(sae, coding.codes))
                yield (
                    about
                    | {"codes": codes, "l0": self._l0(shown)}
                    | self.downstream.score(shown.guess)
                    | proof
                )

        settings = {"kind": "score", "level": level, "codes": wanted} | settings
        settings["pursuit"] = BatchPursuit.version
        if kind == "weighted" and self.metric is not None:
            settings["metric"] = self.metric[0]
        rows = self._once(settings, measure) if wanted else []
        # What is stored may have had another name.
        return [row | {"dictionary": name} for row in rows]

    @functools.cached_property
    def _metric(self) -> Float[np.ndarray, "dim dim"]:
        """A, symmetric."""
        assert self.metric is not None
        information = self.metric[1]()
        values, vectors = np.linalg.eigh(information)
        root = np.sqrt(1 + values.clip(0) / values.mean())
        return ((vectors * root) @ vectors.T).astype(np.float32)

    def _weighted(self, sae: SAE, level: float) -> Coder:
        metric, counted = self._metric, self.downstream.replaced
        atoms = metric @ np.asarray(sae.unit_dictionary)
        inside = SAE.of_model(Model(jnp.asarray(atoms), jnp.zeros(len(atoms))), name=sae.name)
        targets = np.asarray(sae.target(self.downstream.activations)) @ metric
        coder, norms = screened(inside, targets, level, counted), np.linalg.norm(atoms, axis=0)
        norms[norms == 0] = 1
        return lambda target, place: coder(targets[place], place).multiply(1 / norms)

    def _l0(self, coding: Coding) -> float:
        return coding.of(self.downstream.replaced).l0

    def _clean(self) -> Iterator[Row]:
        down = self.downstream
        row: Row = {
            "kind": "clean",
            "tokens": down.tokens,
            "variance": down.variance,
            "ce": down.clean.ce.mean(),
            "ce_sums": down.by_document(down.clean.ce),
            "rows": len(down.activations),
            "outliers": int(down.outliers.sum()),
        }
        for name, nats in {"zero": down.zero, "mean": down.mean}.items():
            row |= {f"ce_{name}": nats.ce.mean(), f"kl_{name}": nats.kl.mean()}
        yield row

    def _once(self, settings: Row, measure: Callable[[], Iterable[Row]]) -> list[Row]:
        settings = settings | {"study": STUDY, "form": FORM, "of": self.identity}
        return self.store.once(settings, lambda: [{"study": STUDY} | row for row in measure()])


def _steps(level: float) -> int:
    """Of a pursuit at a mean L0."""
    return max(1, round(level))


def _is_best(row: Mapping[str, Any]) -> bool:
    return row.get("codes") in BEST


def best_at(
    rows: Iterable[Mapping[str, Any]], level: float, dictionary: str | None = None
) -> Mapping[str, Any] | None:
    """The row of the best codes at an L0, on one dictionary or on all, whose divergence is least;
    None where there is none.
    """
    there = (
        row
        for row in rows
        if _is_best(row) and row["level"] == level and dictionary in (None, row["dictionary"])
    )
    return min(there, key=lambda row: row["kl"], default=None)


def over_documents(clean: Mapping[str, Any]) -> str:
    """What intervals are over, by the row of the model without a change; few documents hardly tell
    how others differ.
    """
    count = int(np.count_nonzero(clean["tokens"]))
    if count == 1:
        return "of a single document, so no interval"
    return f"over {'only ' if count < FEW_DOCUMENTS else ''}{count} documents"


def split_lines(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """What each encoder's loss is made of, by the divergence's choice of the best codes and the
    best dictionary.

    Args:
      rows: of `Patching.run`.

    Returns:
      A line for each encoder and each of `LOSSES`, where own, own_refit and one of `BEST` were
      measured: the `loss`; the mean L0 of these codes (`l0`, `refit_l0`, `own_best_l0`) and of
        those on the `best` dictionary (`best_l0`); which of `BEST`
      they are, on its own dictionary (`own_best_codes`) and on the best (`best_codes`); `total`,
      above the clean model; the parts that sum to it, `values_part`, `support_part`,
      `dictionary_part` and `rest`; those that the support part is the sum of, `selection_part` and
      `screening_part`, None where "proposed" was not measured; and the ends of the interval of
      each but the rest, `<part>_low` and `<part>_high`.
    """
    rows = list(rows)
    clean = next(row for row in rows if row["kind"] == "clean")
    scored = {
        (row["dictionary"], row["level"], row["codes"]): row
        for row in rows
        if row["kind"] == "score"
    }
    lines: list[Row] = []
    for (name, level, codes), own in scored.items():
        at = best_at(rows, own["near"]) if codes == "own" and not own["dead"] else None
        if at is None:
            continue
        refit, proposed, mine, best = (
            *(scored.get((name, level, other)) for other in ("own_refit", "proposed")),
            *(best_at(rows, level, on) for on in (name, at["dictionary"])),
        )
        if refit is None or mine is None or best is None:
            continue
        about: Row = {
            "dictionary": name,
            "best": best["dictionary"],
            "level": level,
            "l0": own["l0"],
            "refit_l0": refit["l0"],
        }
        about |= {"own_best_codes": mine["codes"], "own_best_l0": mine["l0"]}
        about |= {"best_codes": best["codes"], "best_l0": best["l0"]}
        steps: dict[str, Any] = dict(
            zip(PARTS, itertools.pairwise((own, refit, mine, best)), strict=True)
        )
        if proposed is not None:
            steps |= zip(SUPPORT, itertools.pairwise((refit, proposed, mine)), strict=True)
        for loss, (column, unit) in LOSSES.items():
            base = sum(clean["ce_sums"]) if loss == "ce" else 0.0
            line = about | {"loss": loss}
            for total, row in {"total": own, "rest": best}.items():
                line[total] = (sum(row[column]) - base) / sum(clean[unit])
            line |= {f"{part}_{end}": None for part in SUPPORT for end in ("part", "low", "high")}
            for part, (worse, better) in steps.items():
                lost = compare(better[column], worse[column], clean[unit])
                line |= {
                    f"{part}_part": lost.more,
                    f"{part}_low": lost.low,
                    f"{part}_high": lost.high,
                }
            lines.append(line)
    return lines

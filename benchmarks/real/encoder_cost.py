"""What do codes of a real model's activations cost, and how many nats does each save?

Codes held-out activations on each dictionary in many ways, all but the SAE's own at one mean L0,
and puts the reconstructions back into the model that was recorded, as `downstream` does:

  own, own_refit    the SAE's codes, and least squares on their supports
  screened_pursuit  `ScreenedPursuit`, named by its screens and its candidates for each atom
  batch_pursuit     `BatchPursuit` likewise: twice as many atoms, pruned by one threshold
  omp, omp_pruned   orthogonal matching pursuit among all atoms; of twice as many, pruned likewise
  mp                matching pursuit
  fista             iterations of FISTA, then least squares on codes above one threshold
  lasso, ...        the certified lasso, least squares on its supports, and pruned from twice the L0

A row has the loss in nats and FVU, and what the codes cost: `products` are multiply-adds relative
to one product with the dictionary, which is what an encoder costs, with the Gram matrix of all
atoms at hand for screened pursuits, and without it for the full one; `seconds` are for 1,000
samples. `objective_gap` is by how much their lasso objective is above the certified optimum of the
same L0, relative to it, and `shared` the share of the full pursuit's support that they have.
Thresholds are found on rows that SAEs learn from. Writes rows, summary.csv and a figure of each
dictionary under <results_dir>/encoder_cost/. A run that was stopped goes on with the same command.

  python -m sae_gap encoder_cost --recording=FOLDER --layer=10 --sae=FIRST,SECOND --l0=32
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import PutBack
from benchmarks.real.page_tables import printed, table
from benchmarks.report import pages
from sae_gap import figures
from sae_gap.core import lasso_problem
from sae_gap.core.identity import describe
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.pursuit import OMP
from sae_gap.encoders.screened_pursuit import BatchPursuit, ScreenedPursuit
from sae_gap.figures import tables
from sae_gap.measure.coding import (
    Coder,
    Coding,
    by_encoder,
    chunks,
    code,
    evenly_spaced,
    find_weight,
    identity,
    lasso,
    pursued,
)
from sae_gap.measure.downstream import Downstream
from sae_gap.measure.refit import refit
from sae_gap.runtime import progress
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results
from sae_gap.storage.results import Row

NAME = "encoder_cost"
# Raised whenever a row comes to hold something else.
FORM = 1
FAMILIES = ("own", "screened_pursuit", "batch_pursuit", "omp", "mp", "fista", "lasso")
# Screens, and the candidates for each atom that is pursued.
SCREENS = ((1, 1), (1, 2), (1, 4), (1, 16), (2, 1), (2, 2), (2, 4), (3, 2))
ITERATIONS = (1, 2, 5, 10, 20, 50)
# Rows on which a threshold is found.
CALIBRATED = 2_000
COLUMNS = "dictionary codes products seconds l0 fvu kl delta_ce objective_gap shared certificate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostOptions(PutBack):
    """What to code and how, and where results go."""

    l0: int = option(32, "Mean L0 of all codes but an SAE's own.", least=1)
    codes: tuple[str, ...] = option(FAMILIES, "Families of codes.", choices=FAMILIES)
    tokens: int = option(2_048, "Held-out tokens to run, rounded up to whole documents.", least=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A dictionary with the activations to code on it, and what its codes are held against.

    Attributes:
      sae: the dictionary.
      x: activations, (n, input_dim).
      scored: which of them count, (n,).
      learned: others, on which thresholds are found, (m, input_dim).
      l0: k.
    """

    sae: SAE
    x: Float[np.ndarray, "n input_dim"]
    scored: Bool[np.ndarray, " n"]
    learned: Float[np.ndarray, "m input_dim"]
    l0: int

    @functools.cached_property
    def lam(self) -> float:
        """The weight at which the certified lasso has a mean L0 of k."""
        return float(find_weight(self.sae, self.x[self.scored], self.l0))

    @functools.cached_property
    def optimum(self) -> float:
        """The lasso's objective there."""
        return self.objective(code(self.sae, self.x, lasso(self.sae, self.lam)))

    @functools.cached_property
    def support(self) -> scipy.sparse.csr_array:
        """The atoms that a full pursuit of k takes."""
        atoms = pursued(self.sae, self.x[self.scored], self.l0)
        n, k = atoms.shape
        parts = np.ones(n * k), atoms.ravel(), np.arange(0, n * k + 1, k)
        return scipy.sparse.csr_array(parts, (n, self.sae.num_latents))

    def objective(self, coding: Coding) -> float:
        """The lasso's objective of codes, summed over the samples that count."""
        total, codes, target = 0.0, coding.codes[self.scored], self.sae.target(self.x[self.scored])
        for place in chunks(len(target), self.sae.num_latents):
            dense = codes[place].toarray()
            each = lasso_problem.objective(target[place], self.sae.model.decoder, dense, self.lam)
            total += float(np.sum(np.asarray(each, np.float64)))
        return total

    def with_encoder(self, encoder: Encoder) -> Coder:
        """Codes by an encoder that needs no training."""
        model = Model(self.sae.model.decoder, self.sae.model.bias, None, encoder)
        if isinstance(encoder, BatchPursuit):
            model = encoder.calibrate(model, self.sae.target(self.learned))
        return lambda target, _: encoder.infer(model, target).codes

    def refitted(self, coder: Coder) -> Coder:
        """Least squares on the support of codes."""
        return lambda target, place: self._fit(target, _codes(coder(target, place)) != 0)

    def pruned(self, coder: Coder) -> Coder:
        """The same, less the atoms whose absence adds least to the squared error."""
        return self.above(self.refitted(coder), self._gains)

    def above(self, coder: Coder, worth: Callable[..., np.ndarray]) -> Coder:
        """Least squares on the atoms whose worth, given targets and codes, is above the threshold
        that leaves k a sample among the rows learned from.
        """

        def worths(target, place):
            return worth(target, _codes(coder(target, place)))

        target = self.sae.target(self.learned)
        found = [
            worths(target[place], place) for place in chunks(len(target), self.sae.num_latents)
        ]
        every = np.sort(np.concatenate([each[each > 0] for each in found]))[::-1]
        last = min(self.l0 * len(target), len(every)) - 1
        least = every[last : last + 2].mean()
        return lambda target, place: self._fit(target, worths(target, place) >= least)

    def _fit(self, target, on):
        return refit(target, self.sae.model.decoder, on, nonneg=not self.sae.signed)

    def _gains(self, target, codes):
        """What the squared error of least squares grows by if an atom goes: z_j² over the j-th
        diagonal entry of the inverse of the Gram matrix of the support.
        """
        atoms, gains = np.asarray(self.sae.model.decoder, np.float64).T, np.zeros(codes.shape)
        for sample, values in enumerate(codes):
            on = np.flatnonzero(values)
            inverse = np.linalg.pinv(atoms[on] @ atoms[on].T, hermitian=True)
            gains[sample, on] = values[on] ** 2 / np.diagonal(inverse)
        return gains


class Way(NamedTuple):
    """A way to code.

    Attributes:
      codes: its name.
      family: one of `FAMILIES`.
      encoder: what finds the codes or the atoms that least squares take.
      coder: makes the coder.
      fits: atoms of which least squares take the Gram matrix, for each that is left.
    """

    codes: str
    family: str
    encoder: Any
    coder: Callable[[Subject], Coder]
    fits: int = 0

    def products(self, sae: SAE, l0: float) -> float | None:
        """Multiply-adds of a sample, by those of a product with the dictionary."""
        sizes = sae.input_dim, sae.num_latents
        cost = self.encoder.flops(*sizes) if isinstance(self.encoder, Encoder) else None
        size = self.fits * l0
        return None if cost is None else cost / (2 * np.prod(sizes)) + size * (1 + size) / sizes[1]


def ways(sae: SAE, k: int) -> Iterator[Way]:
    """All ways to code on a dictionary with k atoms a sample."""
    twice = min(2 * k, sae.num_latents)
    if sae.model.encode is not None:
        given = sae.given_encoder
        yield Way("own", "own", given, lambda on: by_encoder(on.sae))
        yield Way("own_refit", "own", given, lambda on: on.refitted(by_encoder(on.sae)), 1)
    for kind in (ScreenedPursuit, BatchPursuit):
        for screens, breadth in SCREENS:
            one = kind(k, breadth, screens)
            name = f"{one.name}_{screens}x{breadth}"
            yield Way(name, one.name, one, functools.partial(Subject.with_encoder, encoder=one))
    full, more = (OMP(size, nonneg=not sae.signed) for size in (k, twice))
    yield Way("omp", "omp", full, lambda on: on.refitted(on.with_encoder(full)), 1)
    yield Way("omp_pruned", "omp", more, lambda on: on.pruned(on.with_encoder(more)), 2)
    greedy = MatchingPursuit(k)
    yield Way("mp", "mp", greedy, lambda on: on.with_encoder(greedy))
    for count in ITERATIONS:
        few = Lasso(0.0, tol=None, max_iterations=count, nonneg=not sae.signed)

        def steps(on, few=few):
            coder = on.with_encoder(dataclasses.replace(few, lam=on.lam))
            return on.above(coder, lambda _, codes: np.abs(codes))

        yield Way(f"fista_{count}", "fista", few, steps, 1)
    solved = Lasso()
    yield Way("lasso", "lasso", solved, lambda on: lasso(on.sae, on.lam))
    yield Way("lasso_refit", "lasso", solved, lambda on: on.refitted(lasso(on.sae, on.lam)), 1)

    def pruned(on):
        return on.pruned(lasso(on.sae, find_weight(on.sae, on.x[on.scored], twice)))

    yield Way("lasso_pruned", "lasso", solved, pruned, 2)


def score(way: Way, on: Subject, downstream: Downstream) -> Row:
    """The row of a way to code."""
    sae, coder = on.sae, way.coder(on)
    coding = code(sae, on.x, coder)
    place = chunks(len(on.x), sae.num_latents)[0]
    target = sae.target(on.x[place])
    # The first run has compiled it.
    begun = time.perf_counter()
    jax.block_until_ready(coder(target, place))
    seconds = (time.perf_counter() - begun) / len(target) * 1_000
    scored = coding.of(on.scored)
    given = {"screens": "screens", "breadth": "breadth", "iterations": "max_iterations"}
    varied = {name: getattr(way.encoder, field, None) for name, field in given.items()}
    if way.family == "lasso":
        varied["iterations"] = None
    found: Row = {"study": NAME, "kind": "score", **sae.columns, "codes": way.codes}
    found |= {"family": way.family, **varied, "level": on.l0, "lam": on.lam}
    found |= {"products": way.products(sae, scored.l0), "seconds": seconds, "l0": scored.l0}
    found |= downstream.score(coding.guess) | {"certificate": coding.certificate}
    found["objective_gap"] = on.objective(coding) / on.optimum - 1
    shared = scored.codes.astype(bool).multiply(on.support.astype(bool)).sum()
    return found | {"shared": shared / on.support.nnz}


def _codes(found: Any) -> np.ndarray:
    return np.asarray(getattr(found, "codes", found))


def measure(options: CostOptions) -> list[Row]:
    """Codes all, or reads what is stored; writes the table as a file, and the figures.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    folder = cli.folder(options.results_dir) / NAME
    recorded, lm, plan, saes = options.begin((options.l0,))
    folder.require_writable()
    downstream, texts = options.downstream(lm, recorded, options.documents(recorded, plan))
    train, store = plan.parts[0], results.Store(folder)
    learned = train.take(evenly_spaced(train.num_samples, CALIBRATED))
    x, rows = downstream.activations, []
    told = {"study": NAME, "form": FORM, "of": texts, "rows": plan.fingerprint, "l0": options.l0}
    for sae in saes:
        on = Subject(sae, x, downstream.replaced, learned, options.l0)
        every = [way for way in ways(sae, options.l0) if way.family in options.codes]
        with progress.bar(len(every), f"{NAME} {sae.name}") as line:
            for way in every:
                settings = told | {"sae": identity(sae, x), "codes": way.codes}
                if way.family != "own":
                    settings["encoder"] = describe(way.encoder)
                rows += store.once(settings, lambda way=way, on=on: [score(way, on, downstream)])
                # What is stored may have had another name.
                rows[-1] = rows[-1] | {"dictionary": sae.name}
                line.update(1)
        drawn = figures.loss_by_cost([row for row in rows if row["dictionary"] == sae.name])
        if drawn is not None:
            figures.save(drawn, folder, sae.name.replace("/", "_"))
    listed = ("ce_sums", "kl_sums", "errors")
    lines = [{name: row[name] for name in row if name not in listed} for row in rows]
    tables.write_table(folder, "summary.csv", lines)
    return rows


def tables_of(rows: Sequence[Row]) -> list[pages.Table]:
    """A table for each dictionary, by what codes cost."""
    shown: dict[str, list[Row]] = {}
    for row in rows:
        shown.setdefault(row["dictionary"], []).append(row)
    return [
        table(
            f"Codes on {name} at a mean L0 of {lines[0]['level']}",
            COLUMNS,
            sorted(lines, key=lambda row: (row["products"] or np.inf, row["kl"])),
        )
        for name, lines in shown.items()
    ]


def main(options: CostOptions) -> None:
    with cli.usage():
        rows = measure(options)
    sys.stdout.write(printed(*tables_of(rows)) + "\n")


if __name__ == "__main__":
    cli.run(main)

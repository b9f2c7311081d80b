"""What do codes of a real model's activations cost, and how many nats does each save?

Codes held-out activations on each dictionary in many ways, most of them at one mean L0, and puts
the reconstructions back into the model that was recorded, as `downstream` does:

  own, own_refit    the SAE's codes, and least squares on their supports
  screened_pursuit  `ScreenedPursuit`, named by its screens and its candidates for each atom
  batch_pursuit     `BatchPursuit` likewise: twice as many atoms, pruned by one threshold
  omp, omp_pruned   orthogonal matching pursuit among all atoms; of twice as many, pruned likewise
  fista             iterations of FISTA, then least squares on codes above one threshold
  lasso, ...        the certified lasso, least squares on its supports, and pruned from twice the L0
  mp, ...           any encoder of `sae_gap.encoders` without parameters, by its name: with k, and
                    with the weight at which the lasso has k; its own L0 may differ

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
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import PutBack
from benchmarks.real.page_tables import table
from benchmarks.report import pages
from sae_gap import catalogue, figures
from sae_gap.core.checks import check_choice
from sae_gap.core.identity import describe
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.pursuit import OMP
from sae_gap.encoders.screened_pursuit import (
    BatchPursuit,
    ScreenedPursuit,
    least_gain,
    leave_one_out,
)
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
    least_squares,
    pursued,
    values_of,
)
from sae_gap.measure.downstream import Downstream
from sae_gap.runtime import progress
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results
from sae_gap.storage.results import Row

NAME = "encoder_cost"
# Raised whenever a row comes to hold something else.
FORM = 5
FAMILIES = (
    "own",
    "screened_pursuit",
    "batch_pursuit",
    "omp",
    "fista",
    "lasso",
)
NAMED = ("mp", "gradient_pursuit")
# Screens, and the candidates for each atom that is pursued.
SCREENS = ((1, 1), (1, 2), (1, 4), (1, 16), (2, 1), (2, 2), (2, 4), (3, 2))
ITERATIONS = (1, 2, 5, 10, 20, 50)
# Rows on which a threshold is found.
CALIBRATED = 2_000
COLUMNS = "dictionary codes products seconds l0 fvu kl delta_ce objective_gap shared certificate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostOptions(PutBack):
    """What to code and how, and where results go."""

    l0: int = option(32, "Mean L0 of all codes but those of encoders.", least=1)
    codes: tuple[str, ...] = option((*FAMILIES, *NAMED), "Families of codes, and encoders.")
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
    def pursued(self) -> Int[np.ndarray, "n k"]:
        """The atoms that a full pursuit of k takes."""
        return pursued(self.sae, self.x[self.scored], self.l0)

    def objective(self, coding: Coding) -> float:
        """The lasso's objective of codes, summed over the samples that count."""
        codes, target = coding.codes[self.scored], self.sae.target(self.x[self.scored])
        rest = np.asarray(target, np.float64) - codes @ np.asarray(self.sae.unit_dictionary).T
        return float(np.sum(rest**2) / 2 + self.lam * abs(codes).sum(dtype=np.float64))

    def with_encoder(self, encoder: Encoder) -> Coder:
        """Codes by an encoder that needs no training."""
        model = dataclasses.replace(self.sae.unit_model, encode=encoder)
        if isinstance(encoder, BatchPursuit):
            model = encoder.calibrate(model, self.sae.target(self.learned))
        return lambda target, _: encoder.infer(model, target).codes

    def pruned(self, coder: Coder) -> Coder:
        """Least squares on the support of codes, less the atoms whose absence adds least to the
        squared error.
        """
        worth = functools.partial(leave_one_out, self.sae.unit_dictionary)
        return self.above(least_squares(self.sae, coder), worth)

    def above(self, coder: Coder, worth: Callable[[np.ndarray], Any]) -> Coder:
        """Least squares on the atoms whose worth, a function of the codes, is above the threshold
        that leaves k a sample among the rows learned from.
        """
        found = code(self.sae, self.learned, coder).codes.toarray()
        least = least_gain(jnp.asarray(worth(found)), self.l0)

        def kept(target, place):
            codes = values_of(coder(target, place))
            codes = codes.toarray() if scipy.sparse.issparse(codes) else np.asarray(codes)
            return np.where(worth(codes) > least, codes, 0)

        return least_squares(self.sae, kept)


class Way(NamedTuple):
    """A way to code.

    Attributes:
      codes: its name.
      family: one of `FAMILIES`, or an encoder's name.
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


def ways(sae: SAE, k: int, named: Sequence[str] = NAMED) -> Iterator[Way]:
    """All ways to code on a dictionary with k atoms a sample, over the signs that its codes have;
    the screened pursuits have non-negative codes alone. Some encoders are named.
    """
    nonneg, twice = not sae.signed, min(2 * k, sae.num_latents)
    if sae.model.encode is not None:
        given = sae.model.encode
        yield Way("own", "own", given, lambda on: by_encoder(on.sae))
        yield Way("own_refit", "own", given, lambda on: least_squares(sae, by_encoder(sae)), 1)
    for kind in (ScreenedPursuit, BatchPursuit) if nonneg else ():
        for screens, breadth in SCREENS:
            one = kind(k, breadth, screens)
            yield _plain(f"{one.name}_{screens}x{breadth}", one)
    full, more = (OMP(size, nonneg=nonneg) for size in (k, twice))
    yield Way("omp", "omp", full, lambda on: least_squares(sae, on.with_encoder(full)), 1)
    yield Way("omp_pruned", "omp", more, lambda on: on.pruned(on.with_encoder(more)), 2)
    yield from (_named(name, k, nonneg) for name in named)
    for count in ITERATIONS:
        few = Lasso(0.0, tol=None, max_iterations=count, nonneg=nonneg)

        def steps(on, few=few):
            return on.above(on.with_encoder(dataclasses.replace(few, lam=on.lam)), np.abs)

        yield Way(f"fista_{count}", "fista", few, steps, 1)
    solved = Lasso(nonneg=nonneg)
    yield Way("lasso", "lasso", solved, lambda on: lasso(sae, on.lam))
    yield Way("lasso_refit", "lasso", solved, lambda on: least_squares(sae, lasso(sae, on.lam)), 1)

    def pruned(on):
        return on.pruned(lasso(sae, find_weight(sae, on.x[on.scored], twice)))

    yield Way("lasso_pruned", "lasso", solved, pruned, 2)


def _plain(codes: str, encoder: Encoder) -> Way:
    return Way(codes, encoder.name, encoder, lambda on: on.with_encoder(encoder))


def _named(name: str, k: int, nonneg: bool) -> Way:
    """An encoder of the catalogue with k latents, and the weight at which the lasso has k."""
    check_choice("codes", name, (*FAMILIES, *catalogue.encoders()))
    make = functools.partial(catalogue.make_encoder, name, sparsity=k, nonneg=nonneg)
    encoder = make()
    model = Model(jnp.ones((k, 2 * k)), jnp.zeros(k), None, encoder)
    try:
        eqx.filter_eval_shape(encoder, model, jnp.ones((1, k)))
    except (AttributeError, TypeError):
        raise ValueError(
            f"{name} has parameters, which no dictionary alone gives; give an SAE that has it as "
            "--sae, and own as --codes."
        ) from None
    return Way(name, name, encoder, lambda on: on.with_encoder(make(lam=on.lam)))


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
    rows = np.arange(len(on.pursued))[:, None]
    return found | {"shared": scored.codes[rows, on.pursued].count_nonzero() / on.pursued.size}


def measure(options: CostOptions) -> list[Row]:
    """Codes all, or reads what is stored; writes the table as a file, and the figures.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    folder = cli.folder(options.results_dir) / NAME
    named = [name for name in options.codes if name not in FAMILIES]
    for name in named:
        _named(name, options.l0, nonneg=True)
    recorded, lm, plan, saes = options.begin((options.l0,))
    folder.require_writable()
    downstream, texts = options.downstream(lm, recorded, options.documents(recorded, plan))
    train, store = plan.parts[0], results.Store(folder)
    learned = train.take(evenly_spaced(train.num_samples, CALIBRATED))
    x, rows = downstream.activations, []
    told = {"study": NAME, "form": FORM, "of": texts, "rows": plan.fingerprint, "l0": options.l0}
    for sae in saes:
        on = Subject(sae, x, downstream.replaced, learned, options.l0)
        every = [way for way in ways(sae, options.l0, named) if way.family in options.codes]
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
    tables.write_table(folder, "summary.csv", rows)
    return rows


def tables_of(rows: Sequence[Row]) -> list[pages.Table]:
    """A table for each dictionary, by what codes cost."""
    return [
        table(
            f"Codes on {name} at a mean L0 of {lines[0]['level']}",
            COLUMNS,
            sorted(lines, key=lambda row: (row["products"] or np.inf, row["kl"])),
        )
        for (name,), lines in results.grouped(rows, ("dictionary",)).items()
    ]


def main(options: CostOptions) -> None:
    with cli.usage():
        rows = measure(options)
    print(*tables_of(rows), sep="\n\n")


if __name__ == "__main__":
    cli.run(main)

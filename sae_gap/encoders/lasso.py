"""Sparse inference for each sample on a model's dictionary, from zero, from another encoder's
codes, or beside codes that were learned together with the dictionary.
"""

import abc
import functools
import warnings
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from equinox import Module, field
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sae_gap.core import (
    Look,
    Model,
    Split,
    check_number,
    check_type,
    class_name,
    describe,
    evenly_spaced,
    infer_in_chunks,
    option,
    set_fields,
)
from sae_gap.encoders import Encoder, Inferring, Own, encode, on_unit_atoms, unit_atoms
from sae_gap.solvers import match_l0, sparse_code

# Asks for the L0 of the model's own encoder.
OWN = "own"
# A lasso code with more non-zeros than this share of the dimensions is not sparse, and a denser
# encoder has no sparse optimum to be compared with.
DENSEST = 1 / 4
# A weight is found on this many samples, and then corrected on all.
MATCHED = 500
# Samples that are encoded at once to measure their L0.
CHUNK = 2_000


class _Minimising(Inferring):
    """Codes that a solver of the lasso finds; subclasses say when it stops."""

    lam: float = option(default=0.1, least=0)
    start: Encoder | None = None
    unit_atoms: bool = option(default=True, kw_only=True)
    nonneg: bool = option(default=True, kw_only=True)
    l0: float | str | None = field(
        default=None, static=True, kw_only=True, metadata={"rare": True}
    )

    def __check_init__(self):
        if self.l0 not in (None, OWN):
            check_number("l0", self.l0, above=0)
        check_type(
            "start",
            self.start,
            (Encoder, type(None)),
            "give the encoder whose codes to start from",
        )

    @property
    def coordinates(self):
        columns: Any = {"inference": self.name}
        if self.l0 is None:
            columns["lam"] = self.lam
        return columns | {"start": "cold" if self.start is None else "warm"}

    @property
    def origin(self):
        return self.start

    @property
    def weight(self):
        return self.lam

    @abc.abstractmethod
    def solver(self) -> dict[str, Any]:
        """The options of `sparse_code` that end its iterations."""

    def prepared(self, model, split, task):
        whole: Any = super().prepared(model, split, task)
        if self.l0 is None:
            return whole
        target = split.counted - np.asarray(model.bias)
        l0 = self.l0
        if l0 == OWN:
            l0 = min(mean_l0(model, split), DENSEST * target.shape[1])
        atoms = jax.jit(unit_atoms)(model.decoder)[0]
        lam = find_weight(target, atoms, float(l0), self.nonneg)
        return replace(whole, lam=lam, l0=None)

    def infer(self, model, signals, begun=None):
        """Returns the codes in units of the model's atoms; objective and gap are of the solved
        problem.
        """
        if self.start is not None and begun is None:
            begun = encode(self.start, model, signals)
        target, dictionary, norms = on_unit_atoms(model, signals)
        if not self.unit_atoms:
            dictionary = model.decoder
            norms = jnp.ones(())
        if begun is not None:
            begun = (begun * norms).clip(0 if self.nonneg else None)
        solution = sparse_code(
            target,
            dictionary,
            self.lam,
            nonneg=self.nonneg,
            init=begun,
            **self.solver(),
        )
        return replace(solution, codes=solution.codes / norms)


class Lasso(_Minimising):
    """`argmin_z ½‖y - b - D z‖² + λ‖z‖₁, z ≥ 0`, with a certificate.

    Args:
      lam: weight of the l1 norm.
      start: an encoder; the solver starts from its codes, clipped at zero. None starts from zero.
      unit_atoms: whether to solve on unit atoms, where λ is comparable between dictionaries, and to
        scale the codes back.
      nonneg: whether codes are constrained to be non-negative.
      l0: the mean L0 at which `prepared` finds λ: a number, or "own" for the model's own encoder's
        L0, capped at a quarter of the dimensions. None keeps λ.
      tol: relative duality gap to reach.
      max_iterations: after these a sample is reported as not converged.
      of: another lasso; `prepared` takes its λ.
      times: a factor of the λ that `prepared` finds or takes.
    """

    label = "certified lasso"
    colour = "#000000"
    rank = 14
    # Of the iterations below, which no list of encoders names.
    looks: ClassVar = {
        "ista": Look("ISTA", "#999933"),
        "fista": Look("FISTA", "#7F7F7F"),
    }
    constants: ClassVar = {"momentum": True}

    tol: float = option(default=1e-6, above=0, kw_only=True)
    max_iterations: int = option(default=20_000, static=False, least=0, kw_only=True)
    of: Encoder | None = field(default=None, kw_only=True, metadata={"rare": True})
    times: float = option(default=1.0, above=0, rare=True, kw_only=True)

    @property
    def coordinates(self):
        columns = super().coordinates
        if self.of is not None:
            columns.pop("lam", None)
        return columns

    def prepared(self, model, split, task):
        whole: Any = super().prepared(model, split, task)
        if self.of is not None:
            whole = replace(whole, lam=whole.of.lam, l0=None, of=None)
        elif self.l0 is None:
            return whole
        return replace(whole, lam=whole.lam * self.times, times=1.0)

    def solver(self):
        return {"tol": self.tol, "max_iterations": self.max_iterations}


class FISTA(_Minimising):
    """Exactly so many iterations of the published, textbook FISTA on the problem of `Lasso`,
    converged or not.

    Args:
      lam: weight of the l1 norm.
      start: as `Lasso` has it.
      unit_atoms: likewise.
      nonneg: likewise.
      l0: likewise.
      iterations: how many.

    References:
      Beck & Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm for linear inverse
      problems", SIAM J. Imaging Sciences 2(1).
    """

    listed = False
    momentum: ClassVar[bool] = True

    iterations: int = option(default=100, static=False, least=0, kw_only=True)

    def described(self) -> dict[str, Any]:
        """As keys have it since these iterations were options of `Lasso`."""
        fields = {name: describe(value) for name, value in set_fields(self).items()}
        fields["max_iterations"] = fields.pop("iterations")
        lasso = {"class": class_name(Lasso), "version": self.version, "tol": None}
        return fields | lasso | {"momentum": self.momentum}

    @property
    def coordinates(self):
        return super().coordinates | {"iterations": self.iterations}

    def flops(self, input_dim, num_latents):
        """Returns those of the iterations from zero, of which the first takes one product."""
        if self.start is None:
            return (2 * self.iterations - 1) * 2 * input_dim * num_latents
        return None

    def solver(self):
        return {
            "tol": None,
            "max_iterations": self.iterations,
            "solver": "auto" if self.momentum else "ista",
        }


class ISTA(FISTA):
    """FISTA without momentum, with the same options."""

    momentum = False


class LookupParameters(Module):
    """Signals and their codes, in units of the model's atoms."""

    signals: Float[Array, "known input_dim"]
    codes: Float[Array, "known num_latents"]


class Lookup(Encoder):
    """Returns the codes that a learner found for its signals, in any order; other signals get the
    lasso's.

    A learner that minimises `mean (Y - Z Dᵀ)² + λ mean (z_ij ‖d_j‖)` over codes, and stores them in
    `Model.encoder`, minimises `½‖y - D z‖² + w ‖z‖₁` on unit atoms, with
    `w = λ input_dim / (2 num_latents)`. Other signals are coded at that weight.

    Args:
      lam: λ of the learner.
    """

    lam: float = option(default=0.1, least=0)

    def __call__(self, model, signals):
        known: LookupParameters = model.encoder

        def find(row):
            same = jnp.all(known.signals == row, axis=1)
            return known.codes[jnp.argmax(same)], jnp.any(same, keepdims=True)

        codes, found = lax.map(find, signals)
        input_dim = jnp.sum(jnp.any(known.signals != 0, axis=0))

        def rest():
            lasso = Lasso(self.lam * input_dim / (2 * model.decoder.shape[1]))
            return jnp.where(found, codes, lasso(model, signals))

        return lax.cond(jnp.all(found), lambda: codes, rest)


def mean_l0(model: Model, split: Split) -> float:
    """Returns the mean L0 of a model's own encoder on the rows that count.

    Raises:
      ValueError: the model has no encoder.
    """
    if model.encode is None:
        raise ValueError("a decoder alone has no L0 of its own; ask for a number.")
    own = Own(model.encode)
    rows = split.read_by(model)
    codes = infer_in_chunks(
        lambda chunk: own.infer(model, jnp.asarray(chunk)), rows, CHUNK
    ).codes
    return codes.nnz / len(rows)


def find_weight(
    target: Float[np.ndarray, "n input_dim"],
    atoms: Float[ArrayLike, "input_dim num_latents"],
    l0: float,
    nonneg: bool = True,
) -> float:
    """Returns the λ at which the certified codes of all targets have about a mean L0, or half of
    that L0 if they never reach it.

    It is found on `MATCHED` targets, and corrected by the mean L0 of all, along the slope of those.

    Args:
      target: `y - b`, (n, input_dim).
      atoms: of unit length, (input_dim, num_latents).
      l0: the requested mean L0.
      nonneg: whether codes are non-negative.
    """
    few = target[evenly_spaced(len(target), MATCHED)]
    match = functools.partial(match_l0, few, atoms, nonneg=nonneg, accuracy=0.005)
    with warnings.catch_warnings():
        # The rows of the measurement report the L0 that was reached.
        warnings.simplefilter("ignore", UserWarning)
        try:
            weight, best = match(l0)
        except ValueError:
            weight, best = match(l0 := l0 / 2)
    lam = float(weight)
    if len(few) == len(target):
        return lam
    less = sparse_code(few, atoms, 0.9 * lam, nonneg=nonneg, init=best.codes)
    here = max(float(np.count_nonzero(best.codes)), 1.0)
    there = max(float(np.count_nonzero(less.codes)), 1.0)
    slope = np.log(there / here) / -np.log(0.9)
    codes: Any = sparse_code(target, atoms, lam, nonneg=nonneg, sparse=True).codes
    reached = np.count_nonzero(codes.data) / len(target)
    # If codes hardly grow as the weight falls, no weight corrects their number.
    if reached and slope > 0.1:
        return lam * (reached / l0) ** (1 / slope)
    return lam

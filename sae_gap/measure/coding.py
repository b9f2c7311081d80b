"""The one loop that codes activations: some at a time, with what the codes reconstruct and what
certifies them.

How is a function of the targets of a chunk and of its place: `by_encoder`, `lasso`,
`least_squares` or `screened`. By the place it finds the rows of codes that it starts from or
refits.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core.identity import class_name
from sae_gap.core.lasso_problem import relative_gap
from sae_gap.core.rows import evenly_spaced
from sae_gap.core.types import Solution
from sae_gap.encoders.screened_pursuit import BatchPursuit, least_gain
from sae_gap.encoders.thresholding_pursuit import ThresholdingPursuit
from sae_gap.runtime import devices
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import match_l0, sparse_code
from sae_gap.storage.results import digest

# Samples coded at once, at least and at most, and their codes in floats.
LEAST, CHUNK, CODES = 64, 2_000, 2**24
# Times that latents could each have been on, on average, without which those that never are say
# nothing.
CHANCES = 20
# A lasso code of more non-zeros than this share of the dimensions is no sparse code, and an encoder
# that fires more has none to better.
DENSEST = 1 / 4
# Samples on which a weight is found, before it is corrected on all.
MATCHED = 500

# The targets of a chunk and its place to codes, (n, num_latents), dense or sparse, or a solution.
Coder = Callable[[Float[Array, "n input_dim"], slice], Any]


class Coding(NamedTuple):
    """Codes of activations.

    Attributes:
      codes: on unit atoms, (n, num_latents).
      guess: the reconstructions, in the units of the activations, (n, input_dim).
      certificate: the largest duality gap of a sample relative to its objective; None for codes
        that have none.
    """

    codes: scipy.sparse.csr_array
    guess: Float[np.ndarray, "n input_dim"]
    certificate: float | None

    @property
    def l0(self) -> float:
        """The mean number of non-zero codes."""
        return self.codes.nnz / self.codes.shape[0]

    @property
    def fired(self) -> int:
        """Latents that are not zero for every sample."""
        return len(np.unique(self.codes.indices))

    def of(self, rows: Any) -> "Coding":
        """The codes of some of the rows."""
        return self._replace(codes=self.codes[rows], guess=self.guess[rows])

    @property
    def dead(self) -> bool:
        """Whether an encoder is off: it fires less than one latent a sample, or never fires most of
        its latents on as many samples as give each `CHANCES` chances.
        """
        width = self.codes.shape[1]
        return self.l0 < 1 or (self.codes.nnz >= CHANCES * width and 2 * self.fired < width)


def by_encoder(sae: SAE) -> Coder:
    """The encoder's codes."""
    return lambda target, _: sae.encode_target(target)


def lasso(
    sae: SAE, lam: float, start: scipy.sparse.csr_array | None = None
) -> Callable[..., Solution]:
    """The certified lasso at a weight, which may start from other codes."""

    def solve(target, place):
        init = None if start is None else jnp.asarray(start[place].toarray())
        return sparse_code(target, sae.unit_dictionary, lam, nonneg=not sae.signed, init=init)

    return solve


def thresholded(sae: SAE, lam: float, codes: scipy.sparse.csr_array) -> Coder:
    """Hard thresholding pursuit from the lasso's codes at a weight."""

    def pursue(target, place):
        begun = jnp.asarray(codes[place].toarray())
        return ThresholdingPursuit(lam).infer(sae.unit_model, target, begun).codes

    return pursue


def least_squares(sae: SAE, codes: scipy.sparse.csr_array | Coder) -> Coder:
    """Least squares on the supports of codes, which a coder may find, over non-negative values
    where the SAE's codes are.
    """

    def fit(target, place):
        on = values_of(codes(target, place)) if callable(codes) else codes[place]
        options = {"nonneg": not sae.signed, "support": on, "sparse": True}
        return sparse_code(target, sae.unit_dictionary, 0.0, **options).codes

    return fit


def values_of(found: Any) -> Any:
    """The codes that a coder gave, dense or sparse, without their certificate."""
    return found.codes if isinstance(found, Solution) else found


def least_squares_on(
    sae: SAE, atoms: Int[np.ndarray, "n k"], on: Bool[np.ndarray, "n k"] | None = None
) -> Coder:
    """Least squares on atoms of these numbers, or on some of them, over non-negative values where
    codes are.
    """
    n, k = atoms.shape
    used = np.ones(n * k) if on is None else on.ravel().astype(float)
    parts = used, atoms.ravel(), np.arange(0, n * k + 1, k)
    return least_squares(sae, scipy.sparse.csr_array(parts, (n, sae.num_latents)))


def screened(
    sae: SAE,
    x: Float[np.ndarray, "n input_dim"],
    l0: float,
    counted: Any = slice(None),
    *,
    proposed: bool = False,
) -> Coder:
    """Least squares on the atoms that stay of a screened pursuit of `2 ⌈l0⌉`, where those go whose
    loss costs least, by one threshold for all activations; see `BatchPursuit`.

    Args:
      sae: whose codes are non-negative.
      x: the activations that will be coded, (n, input_dim).
      l0: mean number of atoms that stay.
      counted: the rows that this is a mean over.
      proposed: whether the pursuit is among the `4 ⌈l0⌉` latents of largest pre-activation alone,
        of an SAE that has `affine`.
    """
    pursuit = BatchPursuit(math.ceil(l0), screens=1 if proposed else 2)
    propose, found = sae.affine if proposed else None, []
    for place in chunks(len(x), sae.num_latents):
        target = devices.place(sae.target(x[place]), devices.own_mesh())
        proposals = None if propose is None else propose(target) * sae.lengths
        found.append(jax.device_get(pursuit.pursue(sae.unit_model, target, proposals)))
    atoms, gains = (np.concatenate(parts) for parts in zip(*found, strict=True))
    least = np.asarray(least_gain(gains[counted], l0))
    return least_squares_on(sae, atoms, (gains >= least) & (gains > 0))


def code(sae: SAE, x: Float[np.ndarray, "n input_dim"], coder: Coder) -> Coding:
    """Codes activations.

    Args:
      sae: whose dictionary decodes.
      x: activations, (n, input_dim).
      coder: how, such as `by_encoder(sae)`.

    Returns:
      The codes, their reconstructions and their certificate.
    """
    codes, guesses, gaps = [], [], []
    for place in chunks(len(x), sae.num_latents):
        found = coder(devices.place(sae.target(x[place]), devices.own_mesh()), place)
        if isinstance(found, Solution):
            gaps.append(float(relative_gap(found).max()))
        values = values_of(found)
        sparse = scipy.sparse.issparse(values)
        codes.append(scipy.sparse.csr_array(values if sparse else np.asarray(values)))
        shown = codes[-1] if sparse else jnp.asarray(values)
        guesses.append(np.asarray(sae.decode_target(shown, x[place])))
    together = scipy.sparse.csr_array(scipy.sparse.vstack(codes))
    return Coding(together, np.concatenate(guesses), max(gaps, default=None))


def code_lasso(sae: SAE, x: Float[np.ndarray, "n input_dim"], lam: float) -> tuple[Coding, Coding]:
    """The codes of the certified lasso, and least squares on their supports."""
    found = code(sae, x, lasso(sae, lam))
    return found, code(sae, x, least_squares(sae, found.codes))


def identity(sae: SAE, *rows: Float[np.ndarray, "n input_dim"]) -> str:
    """What tells an SAE from others in the key of what is measured of it on some rows.

    Its numbers do, with the versions of the suite's encoders. An encoder of one's own is told by
    the codes that it gives for these rows, since another function may have its name.
    """
    if sae.model.encode is None or class_name(type(sae.model.encode)).startswith("sae_gap."):
        return sae.identity
    codes = [code(sae, x, by_encoder(sae)).codes for x in rows if len(x)]
    return digest([sae.identity, *(part for z in codes for part in (z.data, z.indices, z.indptr))])


def chunks(samples: int, num_latents: int) -> list[slice]:
    """The slices in which so many samples are coded."""
    size = max(LEAST, min(CHUNK, CODES // num_latents))
    return [slice(start, min(start + size, samples)) for start in range(0, samples, size)]


def find_weight(sae: SAE, x: Float[np.ndarray, "n input_dim"], l0: float) -> float:
    """The weight at which the best codes of activations have about a mean L0, or half of it where
    they never have as many.

    It is found on `MATCHED` of the activations, and corrected by the mean L0 of all along the slope
    that those have.
    """
    few, atoms, nonneg = (
        sae.target(x[evenly_spaced(len(x), MATCHED)]),
        sae.unit_dictionary,
        not sae.signed,
    )

    def match(l0):
        return match_l0(few, atoms, l0, nonneg=nonneg, accuracy=0.005)

    with warnings.catch_warnings():
        # The curve tells how far it is from what was wanted.
        warnings.simplefilter("ignore", UserWarning)
        try:
            weight, best = match(l0)
        except ValueError:
            l0 = l0 / 2
            weight, best = match(l0)
    lam = float(weight)
    if len(few) == len(x):
        return lam
    less = sparse_code(few, atoms, 0.9 * lam, nonneg=nonneg, init=best.codes)
    here, there = (max(float(np.count_nonzero(each.codes)), 1.0) for each in (best, less))
    slope = np.log(there / here) / -np.log(0.9)
    reached = code(sae, x, lasso(sae, lam)).l0
    # Where codes hardly grow with less weight, no weight corrects them.
    return lam * (reached / l0) ** (1 / slope) if reached and slope > 0.1 else lam

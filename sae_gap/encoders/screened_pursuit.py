"""Pursuits that look at few atoms; the dictionary is their only weights."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from sae_gap.core import matching
from sae_gap.core.checks import check_number, is_traced
from sae_gap.core.lasso_problem import product
from sae_gap.core.options import option
from sae_gap.core.pursuit import (
    DEPENDENT,
    EXCHANGES,
    MOST,
    SLACK,
    WHOLE,
    check_k,
    check_threshold,
    screen_sizes,
)
from sae_gap.core.rows import counted
from sae_gap.core.types import Coded, Model
from sae_gap.encoders.encoder import AmortisedEncoder, Recipe, as_floats, unit_atoms
from sae_gap.loops import host
from sae_gap.runtime import devices, sharding
from sae_gap.solvers import coding

# Floats for the samples that are coded at once.
CHUNK = 2**24


class ScreenedPursuit(AmortisedEncoder):
    r"""Orthogonal matching pursuit among the atoms that a screen proposes, then least squares over
    `z ≥ 0`.

    Screen s of S proposes the m atoms of largest `d_jᵀ r` with the residual `r = y - b - D z`,
    including those chosen before. Orthogonal matching pursuit among these continues to `⌈k s / S⌉`
    atoms, and z is their least-squares fit. A screen is one product with the dictionary, as much as
    an encoder costs; the pursuit works on the Gram matrix of m atoms. One screen of all atoms is
    the full pursuit.

    On SAEs of a language model two screens of breadth 2 to 4 have 1 to 3 % more squared error than
    the full pursuit. On a coherent dictionary neighbours fill a screen: for 96 × 1,024 atoms,
    neighbours in eights of cosine 0.8 to 0.9, with 12 active, two screens of breadth 2 have 2 to
    2.4 times its error, four 1.15 times and six 1.01 times. More screens help there; more breadth
    helps less.

    A sparse autoencoder with it trains only the dictionary, with the codes of each batch held
    fixed: they are least squares, so the gradient of the error is the same.

    Args:
      k: atoms in each code, at most input_dim.
      breadth: candidates for each pursued atom: m is this many times k.
      screens: S, four to six for a coherent dictionary.

    References:
      Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit". Donoho et al. (2012),
      "Sparse solution of underdetermined systems of linear equations by stagewise orthogonal
      matching pursuit".
    """

    name = "screened_pursuit"
    label = "screened pursuit"
    colour = "#0072B2"
    rank = 14
    recipe = Recipe("screened pursuit SAE", "#4477AA", rate=5e-3)
    reads_inputs = False
    version = 3

    k: int = option(default=10)
    breadth: int = option(default=2)
    screens: int = option(default=2)

    @property
    def pursued(self) -> int:
        """The number of atoms that the pursuit takes."""
        return self.k

    def parameters(self, weight, key):
        return None

    def __call__(self, model, signals):
        return _code(self, model, signals, self._threshold(model))[0]

    def loss(self, model, signals, penalty):
        held = jax.lax.stop_gradient((model, signals, self._threshold(model)))
        codes, gains = _code(self, *held)
        return self.errors(model, signals, codes), gains

    def flops(self, input_dim, num_latents):
        m, sizes = self.sizes(input_dim, num_latents)
        return sum(2 * input_dim * (num_latents + size) + m * size**2 for size in sizes)

    def infer(self, model, signals, begun=None):
        # Outside of `jit`, where a CPU codes them without XLA.
        return Coded(self(model, signals))

    def sizes(self, input_dim: int, num_latents: int) -> tuple[int, tuple[int, ...]]:
        """Returns the candidates of a screen, and the number of atoms after each screen."""
        return screen_sizes(self.pursued, self.breadth, self.screens, input_dim, num_latents)

    def _threshold(self, model: Model) -> Float[Array, ""] | float:
        return 0.0


class Threshold(eqx.Module):
    """τ, in units of the root mean square of the atoms' lengths."""

    value: Float[Array, ""]


class BatchPursuit(ScreenedPursuit):
    r"""A screened pursuit of 2 k atoms; k of them stay on average, by one threshold τ for all
    samples.

    It drops the atoms whose absence adds least to the squared error,

        z_j² / [(D_SᵀD_S)⁻¹]_jj < τ²,

    where S is the support of a sample and z its least squares on unit atoms, and fits the rest once
    more. So each sample has its own number of atoms.

    τ is a running mean over training batches of the value that keeps k atoms a sample; on a frozen
    dictionary `calibrate` finds it from all rows at once. No gradient trains it. A sample's codes
    do not depend on the other samples.

    Args:
      k: atoms in a code, on average.
      rate: weight of the newest batch in τ; the first batch sets τ.
      l0: atoms that stay on average, if that is a fraction, or if `prepared` is to find τ on a
        given dictionary; k is then this number, rounded up.
      proposer: an encoder; the first screen takes its largest pre-activations. None takes
        `d_jᵀ (y - b)`.
      threshold: τ times the root mean square of the atoms' lengths; `prepared` finds it. None takes
        the model's.

    References:
      Reeves (1999), "An efficient implementation of the backward greedy algorithm for sparse signal
      reconstruction". Bussmann, Leask & Nanda (2024), "BatchTopK sparse autoencoders",
      arXiv:2412.06410, for one threshold.
    """

    name = "batch_pursuit"
    label = "screened pursuit, pruned"
    colour = "#EE3377"
    rank = 15
    recipe = Recipe("pursuit SAE", "#EE6677", rate=5e-3)
    version = 3

    rate: float | Array = option(default=0.1, above=0, most=1)
    l0: float | None = option(default=None, static=True, above=0, rare=True)
    proposer: Any = eqx.field(default=None, metadata={"rare": True})
    threshold: float | None = option(default=None, static=True, least=0, rare=True)

    @property
    def coordinates(self):
        return super().coordinates | ({} if self.l0 is None else {"proposed": bool(self.proposer)})

    def prepared(self, model, split, task):
        """Returns the pursuit with the threshold that keeps `l0` atoms on average, on the non-zero
        rows that count.
        """
        if self.l0 is None or self.threshold is not None:
            return super().prepared(model, split, task)
        rows = split.counted
        gains = self._coded(model, rows[counted(rows)], 0.0)[1]
        return dataclasses.replace(self, threshold=float(jnp.sqrt(least_gain(gains, self.l0))))

    def __call__(self, model, signals):
        if self.threshold is None:
            return super().__call__(model, signals)
        return self._coded(model, signals, self.threshold)[0]

    def _coded(self, model, signals, threshold):
        """The codes and the gains, by one program for all thresholds."""
        plain, rows = dataclasses.replace(self, threshold=None, l0=None), jnp.asarray(signals)
        rows, bare = devices.place(rows, devices.own_mesh()), Model(model.decoder, model.bias)
        return _code(plain, bare, rows, jnp.asarray(threshold), self._proposals(model, rows))

    def _proposals(self, model, signals):
        affine = None if self.proposer is None else self.proposer.affine(model)
        if affine is None:
            return None
        return affine(signals - model.bias) * unit_atoms(model.decoder)[1]

    @property
    def pursued(self):
        return 2 * self.k

    def parameters(self, weight, key):
        return Threshold(jnp.zeros((), weight.dtype))

    def observe(self, model, seen):
        """Returns the model with τ moved towards the threshold of a batch with these gains."""
        own = model.encoder.value
        batch = self._threshold_of(model, seen).astype(own.dtype)
        moved = jnp.where(own > 0, own + self.rate * (batch - own), batch)
        return eqx.tree_at(lambda model: model.encoder.value, model, moved)

    def calibrate(self, model: Model, signals: Float[Array, "n input_dim"]) -> Model:
        """Returns a model with the same dictionary, this encoder, and the τ at which signals have k
        atoms on average.

        Args:
          model: the model with the dictionary.
          signals: (n, input_dim); zero rows do not count. Give rows that the dictionary was not
            trained on: others than its training rows would have more than k.

        Raises:
          ValueError: signals have another width, are not finite, are all zeros but for one row, or
            have fewer atoms than k.
        """
        signals = as_floats("signals", matching.as_matrix("signals", signals))
        if signals.shape[1] != len(model.decoder):
            raise ValueError(
                f"signals have {signals.shape[1]} columns, but the dictionary has "
                f"{len(model.decoder)} dimensions; give those of its layer."
            )
        found = self.calibrated(model, signals[counted(signals)])
        check_threshold(found.encoder.value)
        return Model(model.decoder, model.bias, found.encoder, self)

    def calibrated(self, model, signals):
        """Returns the model with the τ of all non-zero signals, also within `jit`."""
        live = jnp.any(signals != 0, axis=1)
        gains = jnp.where(live[:, None], _code(self, model, signals, 0.0)[1], 0)
        value = self._threshold_of(model, gains, jnp.sum(live)).astype(signals.dtype)
        return dataclasses.replace(model, encoder=Threshold(value))

    def _threshold(self, model):
        if not isinstance(model.encoder, Threshold):
            raise ValueError(
                f"{self.name} has no threshold yet; take the model that calibrate(model, signals) "
                "gives."
            )
        check_number("the model's threshold", model.encoder.value, least=0)
        return model.encoder.value * _unit(model.decoder)

    def _threshold_of(self, model, gains, samples=None):
        return jnp.sqrt(least_gain(gains, self.k, samples)) / _unit(model.decoder)


def least_gain(
    gains: Float[Array, "n size"], l0: float, samples: Int[Array, ""] | int | None = None
) -> Float[Array, ""]:
    """Returns the gain that l0 atoms a sample exceed on average: halfway between the last and the
    next.

    Args:
      gains: the gains of n samples.
      l0: the number of atoms that stay.
      samples: how many of the n count; the others have zero gains. None counts all.
    """
    ordered = jnp.sort(gains.ravel())[::-1]
    kept: Any = l0 * (len(gains) if samples is None else samples)
    last = jnp.clip(round(kept), 1, gains.size) - 1
    return (ordered[last] + ordered[jnp.minimum(last + 1, gains.size - 1)]) / 2


def leave_one_out(
    dictionary: Float[Array, "input_dim num_latents"], codes: Float[ArrayLike, "n num_latents"]
) -> Float[Array, "n num_latents"]:
    """Returns the rise in the least-squares error if an atom goes and the rest is refitted,
    `z_j² / [(D_SᵀD_S)⁻¹]_jj`; zero for an atom that depends on others.

    Args:
      dictionary: D, unit atoms, (input_dim, num_latents).
      codes: least squares on their supports S, (n, num_latents).
    """
    codes = jnp.asarray(codes)
    largest = int(jnp.max(jnp.sum(codes != 0, axis=1)))
    return _leave_one_out(dictionary.T, codes, max(1, largest))


@functools.partial(jax.jit, static_argnames="size")
def _leave_one_out(atoms, codes, size):
    # A ridge of a few roundings of the trace keeps the Gram matrix of dependent atoms definite.
    ridge = 8 * jnp.finfo(atoms.dtype).eps * size * jnp.eye(size, dtype=atoms.dtype)

    def one(codes):
        chosen = jax.lax.top_k(jnp.abs(codes), size)[1]
        held, values = atoms[chosen], codes[chosen]
        gains = _gains(product(held, held.T) + ridge, values, values != 0)
        return jnp.zeros_like(codes).at[chosen].set(gains)

    return jax.lax.map(one, codes, batch_size=max(1, CHUNK // (size * atoms.shape[1])))


def _gains(gram, codes, on):
    return jnp.where(on, codes**2 / _inverse_diagonal(_restricted(gram, on)), 0)


@jax.jit
def _unit(decoder):
    """Returns the root mean square of the lengths of the non-zero atoms."""
    squares = jnp.sum(decoder**2, axis=0)
    return jnp.sqrt(jnp.sum(squares) / jnp.maximum(jnp.sum(squares > 0), 1))


def _code(encoder, model, signals, threshold, proposals=None):
    """Returns the codes, NaN for a row that is not finite, and the rise in squared error without
    each atom of a support; zero for an unused atom.
    """
    check_k(encoder.k, *model.decoder.shape)
    # Cholesky factors need at least single precision.
    kind = jnp.promote_types(jnp.result_type(model.decoder, signals), jnp.float32)
    posed = _pose(model.decoder, model.bias, signals, proposals, kind=kind)
    given = *posed, jnp.asarray(threshold, kind)
    traced, options = any(map(is_traced, given)), encoder.sizes(*model.decoder.shape)
    # A call back from a program of several devices would keep the others waiting for ever.
    if not coding.runs_on_host(given) or (traced and jax.device_count() > 1):
        return _compiled(options, *given)
    run = functools.partial(_on_host, *options)
    if not traced:
        return sharding.place_rows(jax.device_put(run(*given)), signals)
    shapes = (len(signals), model.decoder.shape[1]), (len(signals), options[1][-1])
    kinds = [jax.ShapeDtypeStruct(shape, kind) for shape in shapes]
    call = jax.custom_jvp(
        lambda *given: jax.pure_callback(run, kinds, *given, vmap_method="sequential")
    )
    call.defjvp(_refuse_gradient)
    return call(*given)


def _refuse_gradient(primals, tangents):
    raise TypeError(
        "a screened pursuit has no gradient on a CPU, where a callback computes its codes; take "
        "that of sparse_code(signals - bias, dictionary, 0.0, support=codes).codes, which are the "
        "same, or of the encoder's loss, which keeps codes fixed."
    )


@functools.partial(jax.jit, static_argnames="kind")
def _pose(decoder, bias, signals, proposals, kind):
    """The unit atoms, a row each, their lengths, the targets and the proposals."""
    atoms, lengths = unit_atoms(decoder.astype(kind))
    rest = jax.tree.map(lambda values: values.astype(kind), (signals - bias, proposals))
    return atoms.T, lengths, *rest


def _on_host(num_candidates, sizes, atoms, lengths, targets, proposals, threshold):
    """Codes and gains by the loops of a CPU."""
    atoms, lengths, targets, threshold = map(np.asarray, (atoms, lengths, targets, threshold))
    proposals = None if proposals is None else np.asarray(proposals)
    lost = ~np.isfinite(np.einsum("ij,ij->i", targets, targets))
    if lost.any():
        targets = np.where(lost[:, None], 0, targets)
    given = targets, atoms, num_candidates, sizes, float(threshold**2), proposals
    chosen, values, gains = host.pursue(*given)
    codes = host.spread(chosen, values / lengths[chosen], len(atoms))
    codes[lost] = np.nan
    return codes, gains


@functools.partial(jax.jit, static_argnums=0)
def _compiled(options, atoms, lengths, targets, proposals, threshold):
    """The same by a program of XLA. For many samples it pays to compute the Gram matrix of all
    atoms, and to read the candidates' off it.
    """
    (m, sizes), (width, dim) = options, atoms.shape
    paid = width**2 <= min(WHOLE, len(targets) * len(sizes) * m**2)
    whole = product(atoms, atoms.T) if paid else None
    most = CHUNK // (width + m * (m + sizes[-1]) + (sizes[-1] if paid else m) * dim)
    count = max(1, -(-len(targets) // max(1, most)))
    code = jax.vmap(functools.partial(_code_one, atoms, whole, m, sizes, threshold))
    size, given = -(-len(targets) // count), (targets, proposals)
    codes, gains = sharding.in_batches(lambda part: code(*part), given, size)
    # A NaN chooses no atom, but must remain visible, and so must an overflow.
    finite = jnp.isfinite(jnp.linalg.norm(targets, axis=1, keepdims=True))
    return jnp.where(finite, codes / lengths, jnp.nan), gains


def _code_one(atoms, whole, m, sizes, threshold, signal, proposal):
    chosen, on, toward = jnp.zeros(0, jnp.int32), jnp.zeros(0, bool), product(atoms, signal)
    pull = toward if proposal is None else proposal
    slack = SLACK * jnp.linalg.norm(signal)
    for size in sizes:
        # Atoms chosen before are proposed first.
        candidates = jax.lax.top_k(pull.at[chosen].max(jnp.where(on, jnp.inf, -jnp.inf)), m)[1]
        if whole is None:
            own = atoms[candidates]
            gram = product(own, own.T)
        else:
            gram = whole[candidates[:, None], candidates]
        correlation = toward[candidates]
        places, on, codes = _pursue(gram, correlation, jnp.sum(on), size, slack)
        chosen = candidates[places]
        pull = product(atoms, signal - product(codes, atoms[chosen]))
    gram, correlation = gram[jnp.ix_(places, places)], correlation[places]
    codes, on = _nonnegative(gram, correlation, on, slack)
    gains = _gains(gram, codes, on)
    codes, _ = _nonnegative(gram, correlation, on & (gains >= threshold**2), slack)
    return jnp.zeros(len(atoms), codes.dtype).at[chosen].add(codes), gains


def _pursue(gram, correlation, begun, size, slack):
    """Runs orthogonal matching pursuit on the Gram matrix of the candidates, and takes the first
    `begun` of them first. It ends when none correlates with the residual beyond rounding.

    Row i of `basis` has the inner products of the candidates with vector i of an orthonormal basis
    of the chosen atoms, which their least squares use too.

    Returns:
      The places of the chosen atoms, whether each adds anything, and their least squares.
    """

    def step(i, carry):
        basis, pull, left, places, values, on = carry
        # A chosen candidate has no energy left.
        best = jnp.argmax(jnp.where(left > DEPENDENT, pull, -jnp.inf))
        best = jnp.where(i < begun, i, best).astype(places.dtype)
        fine = (left[best] > DEPENDENT) & ((pull[best] > slack) | (i < begun))
        new = (gram[best] - product(basis[:, best], basis)) / jnp.sqrt(left[best])
        new = jnp.where(fine, new, 0)
        value = jnp.where(fine, pull[best] / jnp.sqrt(left[best]), 0)
        return (
            basis.at[i].set(new),
            pull - value * new,
            left - new**2,
            places.at[i].set(best),
            values.at[i].set(value),
            on.at[i].set(fine),
        )

    m, kind = len(gram), gram.dtype
    begin = (
        jnp.zeros((size, m), kind),
        correlation,
        jnp.diagonal(gram),
        jnp.zeros(size, jnp.int32),
        jnp.zeros(size, kind),
        jnp.zeros(size, bool),
    )
    basis, _, _, places, values, on = jax.lax.fori_loop(0, size, step, begin)
    upper = jnp.triu(jnp.where(on[:, None] & on, basis[:, places], 0))
    upper = upper + jnp.diag(jnp.where(on, 0, 1).astype(kind))
    return places, on, _back(upper, values)


def _by_row(function):
    """Maps a function that calls LAPACK over samples, one after another on a CPU: jaxlib shares a
    batch among threads that wait for each other, and two batches at once would wait for ever.
    """
    one = jax.custom_batching.sequential_vmap(function)
    return lambda *arrays: jax.lax.platform_dependent(*arrays, cpu=one, default=function)


@_by_row
def _back(upper, values):
    return jax.scipy.linalg.solve_triangular(upper, values)


@_by_row
def _solve(gram, correlation):
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram, lower=True), correlation)


@_by_row
def _inverse_diagonal(gram):
    """Returns the diagonal of the inverse of G = L Lᵀ, which is L⁻ᵀ L⁻¹."""
    one = jnp.eye(len(gram), dtype=gram.dtype)
    half = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(gram), one, lower=True)
    return jnp.sum(half**2, axis=0)


def _restricted(gram, on):
    """Returns the Gram matrix of the atoms that are on, with the identity for the others."""
    return jnp.where(on[:, None] & on, gram, jnp.eye(len(gram), dtype=gram.dtype))


def _nonnegative(gram, correlation, allowed, slack):
    """Solves least squares over `z ≥ 0` on the allowed atoms, by block principal pivoting; returns
    the codes, and which of them may differ from zero.
    """

    def solve(on):
        return _solve(_restricted(gram, on), jnp.where(on, correlation, 0))

    def wrong(on, codes):
        excess = correlation - product(gram, codes)
        return jnp.where(on, codes < -slack, allowed & (excess > slack))

    def exchange(carry):
        count, on, codes = carry
        swap = wrong(on, codes)
        last = jnp.arange(len(swap)) == len(swap) - 1 - jnp.argmax(swap[::-1])
        on = on ^ jnp.where(count < EXCHANGES, swap, swap & last)
        return count + 1, on, solve(on)

    def more(carry):
        count, on, codes = carry
        return (count < MOST) & jnp.any(wrong(on, codes))

    _, on, codes = jax.lax.while_loop(more, exchange, (0, allowed, solve(allowed)))
    return jnp.where(on, codes, 0).clip(0), on & (codes > 0)

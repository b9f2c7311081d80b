"""Learners that take no steps: baselines that ignore sparsity, the oracle, the linear probe, and
dictionary surgery.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import random
from jax.numpy import zeros_like
from scipy.sparse import issparse

from sae_gap.core import Task, active_columns, match_atoms, option, product
from sae_gap.encoders import Affine, unit_atoms
from sae_gap.learners import HostLearner, Learner, base_of, live_dims, random_atoms


class Raw(Learner):
    """Takes the signals themselves as codes, of the signals' width; there is no dictionary. Its
    encoder is `Linear`.
    """

    label = "raw signals"
    colour = "#BBBBBB"
    rank = 1
    family = "baseline"

    def init(self, data, *, num_latents, key):
        every = jnp.eye(data.signals.shape[1], dtype=data.signals.dtype)
        return None, zeros_like(every[0]), Affine.create(every)


class PCA(Learner):
    """Principal components of the training signals: `z = Vᵀ (y - ȳ)`, signed, with the components V
    as atoms and ȳ as bias.

    V are the leading right singular vectors of the centred signals: at most num_latents, and at
    most as many as dimensions or samples. Its encoder is `Linear`.
    """

    label = "PCA"
    colour = "#888888"
    rank = 2
    family = "baseline"

    def init(self, data, *, num_latents, key):
        mean = jnp.mean(data.signals, axis=0)
        components = jnp.linalg.svd(data.signals - mean, full_matrices=False)[2]
        live = live_dims(data.signals)[:, None]
        atoms = jnp.where(live, components[:num_latents].T, 0)
        return atoms, mean, Affine.create(atoms)


class Samples(Learner):
    """Takes random training signals less their mean, at unit length, as atoms, and their mean as
    bias.
    """

    label = "training samples"
    colour = "#999999"
    family = "baseline"

    def needs(self, task):
        found = len(task.train.signals)
        return (
            None
            if found >= task.width
            else f"{task.width} training samples for as many atoms"
        )

    def init(self, data, *, num_latents, key):
        mean = jnp.mean(data.signals, axis=0)
        chosen = random.choice(key, len(data.signals), (num_latents,), replace=False)
        return unit_atoms((data.signals[jnp.sort(chosen)] - mean).T)[0], mean


class Random(Learner):
    """Takes unit atoms in random directions, and the mean of the training signals as bias."""

    label = "random atoms"
    colour = "#BBBBBB"
    family = "baseline"

    def init(self, data, *, num_latents, key):
        return random_atoms(key, data.signals, num_latents), jnp.mean(
            data.signals, axis=0
        )


class Oracle(Learner):
    """Learns nothing: its model is the true dictionary without a bias. Its score is the ceiling for
    inference at this λ.

    Args:
      leading: whether to know only the first atoms, as many as a learner has.
    """

    label = "oracle"
    colour = "#000000"
    family = "oracle"

    leading: bool = option(default=False)

    def needs(self, task: Task) -> str | None:
        return "the true dictionary" if task.dictionary is None else None

    def select(self, task):
        return task.dictionary

    def init(self, data, *, num_latents, key):
        atoms = data[:, :num_latents] if self.leading else data
        return atoms, zeros_like(atoms[:, 0])


# The penalties that a linear probe chooses from.
ALPHAS = [1e-6, 1e-4, 1e-2, 1.0, 10.0]


class LinearProbe(Learner):
    """`W = (YᵀY + αI)⁻¹ YᵀZ` without an intercept; leave-one-out error chooses one α of `ALPHAS`
    for all latents.

    With the thin SVD `Y = U S Vᵀ`, the ridge fit is `U diag(s²/(s² + α)) UᵀZ`, and sample i's
    leave-one-out residual is its residual over `1 - Σ_j U_ij² s_j²/(s_j² + α)`. In float32 the
    weights are exact to the roundoff times the ratio of the largest to the smallest singular value.

    References:
      Golub, Heath & Wahba (1979), "Generalized cross-validation as a method for choosing a good
      ridge parameter".
    """

    name = "linear_probe"
    label = "linear probe"
    colour = "#7F7F7F"
    family = "probe"

    constants: ClassVar = {"alphas": ALPHAS}

    def needs(self, task: Task) -> str | None:
        return (
            "the true codes of the training split" if task.train.codes is None else None
        )

    def select(self, task):
        """Returns the signals, their codes and, of sparse ones, the active column of each latent,
        which is beyond the last if the latent is never on.
        """
        signals = task.train.signals
        codes = task.train.codes
        if not issparse(codes):
            return signals, codes, None
        active, latents = active_columns(codes)
        places = np.full(codes.shape[1], len(latents))
        places[latents] = np.arange(len(latents))
        return signals, active, places

    def init(self, data, *, num_latents, key):
        signals, codes, places = data
        left, singular, right = jnp.linalg.svd(signals, full_matrices=False)
        projected = product(left.T, codes)
        # The part that no signal can explain stays apart from the part that the penalty shrinks:
        # one minus the explained part would cancel if a small penalty leaves almost nothing.
        square = left.shape[0] == left.shape[1]
        outside = 0.0 if square else codes - product(left, projected)
        slack = 0.0 if square else 1 - jnp.sum(left**2, axis=1, keepdims=True)

        def leave_one_out(alpha):
            shrunk = alpha / (singular**2 + alpha)
            residual = outside + product(left * shrunk, projected)
            left_out = slack + jnp.sum(left**2 * shrunk, axis=1, keepdims=True)
            return jnp.mean((residual / left_out) ** 2)

        alphas = jnp.asarray(ALPHAS, signals.dtype)
        alpha = alphas[
            jnp.nanargmin(jnp.stack([leave_one_out(alpha) for alpha in alphas]))
        ]
        weights = product(right.T * (singular / (singular**2 + alpha)), projected)
        # A latent that is never on in training gets no weights, and did not influence the choice of
        # α.
        if places is not None:
            weights = jnp.pad(weights, ((0, 0), (0, 1)))[:, places]
        return None, zeros_like(weights[:, 0]), Affine.create(weights)


class Surgery(HostLearner):
    """Returns its base's model with atoms of other lengths; directions, bias and encoder stay.

    Args:
      columns: "renormed" scales each atom to unit length, and "oracle_norms" to the length of its
        true match, by `max_π Σ_j |cos(d_π(j), a_j)|`; an atom without a match keeps its length.
      base: the learner whose model it scales.
    """

    columns: str = option(default="renormed", choices=("renormed", "oracle_norms"))

    def __check_init__(self):
        base_of(self)

    @property
    def name(self):  # type: ignore[override]
        return base_of(self).name

    @property
    def coordinates(self):
        return base_of(self).coordinates | {"columns": self.columns}

    @property
    def encode(self):
        return base_of(self).encode

    def needs(self, task: Task) -> str | None:
        if self.columns == "oracle_norms" and task.dictionary is None:
            return "the true dictionary"
        return super().needs(task)

    def select(self, task):
        return task.dictionary if self.columns == "oracle_norms" else None

    def learn(self, data, *, num_latents, key, base=None):
        atoms, lengths = unit_atoms(base.decoder)
        if data is not None:
            partner = match_atoms(base.decoder, data).learned
            paired = partner >= 0
            wanted = np.array(lengths)
            wanted[partner[paired]] = np.linalg.norm(
                np.asarray(data)[:, paired], axis=0
            )
            atoms = atoms * jnp.asarray(wanted)
        return dataclasses.replace(base, dictionary=atoms, encode=self.encode)

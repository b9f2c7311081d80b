"""Alternating dictionary learning with FISTA codes, as published."""

from collections import namedtuple
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core import Model, Split, option, product
from sae_gap.data.activations import outliers
from sae_gap.encoders import unit_atoms
from sae_gap.learners import Learner, random_atoms
from sae_gap.runtime import num_parts
from sae_gap.solvers import fista, host_learning, wants_gram

# The dictionary and the codes after `round` rounds, and the dictionary's relative change in the
# last one.
_State = namedtuple("_State", "dictionary codes change round")


# FISTA iterations in a round, and the ridge ε of the dictionary's update.
ITERATIONS = 100
RIDGE = 1e-6


class DLFista(Learner):
    """Alternates 100 warm-started FISTA iterations with `D = YᵀZ (ZᵀZ + εI)⁻¹`, ε = 1e-6, and unit
    atoms.

    It starts from a Gaussian dictionary, or from its base's. It has no bias, even if its base has
    one. An atom that no sample uses becomes zero and stays zero. It stops when the relative change
    of the dictionary falls below `tol` after round 10.

    Args:
      lam: weight of the l1 norm.
      num_steps: the most rounds.
      split: the split to fit on: "train", or "id" as published, where the fit sees the samples that
        score it.
      tol: stops at this relative change of the dictionary.
      base: the learner whose dictionary to start from; None starts from a Gaussian one.

    References:
      Engan, Aase & Husoy (1999), "Method of optimal directions". Barin Pacela et al. (2026),
      arXiv:2603.28744.
    """

    name = "dl_fista"
    label = "DL-FISTA"
    colour = "#56B4E9"
    rank = 2

    lam: float = option(default=0.1, least=0)
    num_steps: int = option(default=1_000, kw_only=True)
    split: str = option(default="train", choices=("train", "id"))
    tol: float = option(default=1e-5, least=0)

    constants: ClassVar = {"num_iterations": ITERATIONS, "ridge": RIDGE}
    # The steps of the paper's two studies along a fit: warm starts of the decoder, scored a round
    # late, and learning dynamics, counted from 1.
    snapshots = (
        *(
            0,
            1,
            2,
            4,
            5,
            9,
            10,
            11,
            19,
            20,
            21,
            49,
            50,
            51,
            99,
            100,
            101,
            199,
            200,
            201,
        ),
        *(301, 401, 499, 500, 501, 601, 701, 801, 901, 999),
    )

    def select(self, task):
        return Split(outliers.scale_down(getattr(task, self.split).signals))

    def init(self, data, *, num_latents, key, base=None):
        signals = data.signals
        codes = jnp.zeros((len(signals), num_latents), signals.dtype)
        if base is None:
            atoms = random_atoms(key, signals, num_latents)
        else:
            atoms = unit_atoms(base.decoder)[0]
        return _State(
            atoms, codes, jnp.asarray(jnp.inf, codes.dtype), jnp.zeros((), jnp.int32)
        )

    def step(self, data, state):
        codes = self._code(data.signals, state.dictionary, state.codes)
        gram = product(codes.T, codes) + RIDGE * jnp.eye(
            codes.shape[1], dtype=codes.dtype
        )
        dictionary = unit_atoms(
            jnp.linalg.solve(gram, product(codes.T, data.signals)).T
        )[0]
        change = jnp.linalg.norm(dictionary - state.dictionary) / jnp.linalg.norm(
            state.dictionary
        )
        return _State(dictionary, codes, change, state.round + 1)

    def _code(self, signals, dictionary, codes):
        spread = jax.default_backend() != "cpu" or num_parts() > 1
        if spread or not wants_gram(codes.shape[1], len(signals)):
            return fista.fixed(
                signals, dictionary, self.lam, codes, iterations=ITERATIONS
            )

        # Takes a third of the time of XLA's program, which also multiplies by the zeros among the
        # codes.
        def iterate(*arrays):
            return host_learning.iterate(
                *map(np.asarray, arrays), iterations=ITERATIONS
            )

        rate = fista.step_size(dictionary)
        arrays = signals, dictionary, rate, rate * self.lam, codes
        return jax.pure_callback(iterate, jax.typeof(codes), *arrays)

    def done(self, state):
        return (state.round > 10) & (state.change < self.tol)

    def model(self, state):
        return Model(state.dictionary, jnp.zeros_like(state.dictionary[:, 0]))

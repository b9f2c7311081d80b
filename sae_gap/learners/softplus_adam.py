"""Dictionary and codes as free parameters of one gradient descent, as published."""

import functools
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random, tree
from jax.numpy import where
from jaxtyping import Array, Float, Int, PyTree

from sae_gap.core import Model, option
from sae_gap.data.activations import outliers
from sae_gap.encoders import Lookup, LookupParameters
from sae_gap.learners import Learner, live_share, random_atoms

# The codes start near zero: softplus(-10) is 5e-5.
START = -10.0
# The rate at the start, and its bounds.
RATE = 1e-3
LEAST_RATE = 1e-6
GREATEST_RATE = 1.0
# A fit stops after so many updates without an improvement, a fall of the loss by so much, but not
# before so many updates.
PATIENCE = 5_000
IMPROVEMENT = 1e-6
LEAST_UPDATES = 10_000


class _State(NamedTuple):
    """The state of a fit after `updates` updates. `free` holds the dictionary and P, whose softplus
    are the codes; `known` holds the signals of those codes, if kept. `best` is the least loss so
    far and `worse` the number of updates in a row without a new best; `record` is the last loss
    that counted as an improvement, and `waited` the updates since.
    """

    free: tuple[Float[Array, "input_dim num_latents"], tuple[Array, ...]]
    adam: PyTree
    known: Float[Array, "n input_dim"] | None
    rate: Float[Array, ""]
    best: Float[Array, ""]
    worse: Int[Array, ""]
    record: Float[Array, ""]
    waited: Int[Array, ""]
    updates: Int[Array, ""]


class SoftplusAdam(Learner):
    r"""Adam on dictionary and codes at once, `Z = softplus(P)`, with

        loss(Y, D, P) = mean (Y - Z Dᵀ)² + λ mean (z_ij ‖d_j‖).

    If it is fitted to the ID split, as published, the codes of the OOD samples are found at the
    same time: they are a second term of the same loss, in which D is held fixed. If it is fitted to
    the training split, it only sees the training signals, and a lasso finds codes. D starts with
    Gaussian unit atoms and P from N(-10, 1). The rate grows by a tenth at every update that beats
    the best loss so far, and is halved after each two in a row that do not. After 10,000 updates
    the fit stops if the last 5,000 did not lower the loss by 1e-6.

    Both means are over all entries, so the weight of the equivalent lasso `½‖y - D z‖² + w ‖z‖₁`,
    on unit atoms, is `w = λ input_dim / (2 num_latents)`.

    Codes, their gradient and two moments of Adam each have samples × latents floats: 80 MB with
    5,000 samples and 1,000 latents, and ten times that with 10,000.

    Args:
      lam: λ.
      num_steps: the most blocks of updates.
      block: updates in a step.
      split: the split to fit on: "train", or "id" as published, where the fit finds the very codes
        that are scored.

    References:
      Barin Pacela et al. (2026), arXiv:2603.28744.
    """

    name = "softplus_adam"
    label = "Softplus-Adam"
    colour = "#E69F00"
    rank = 1

    lam: float = option(default=0.1, least=0)
    num_steps: int = option(default=100, kw_only=True)
    block: int = option(default=500)
    split: str = option(default="train", choices=("train", "id"))
    constants: ClassVar = {
        "patience": PATIENCE,
        "improvement": IMPROVEMENT,
        "least_updates": LEAST_UPDATES,
    }

    @property
    def encode(self):
        return Lookup(self.lam) if self.split == "id" else None

    def select(self, task):
        """Returns the signals that the dictionary is fitted to, and any that only codes are found
        for.
        """
        if self.split == "train":
            return (outliers.scale_down(task.train.signals),)
        return task.id.signals, task.ood.signals

    def init(self, data, *, num_latents, key):
        dtype = data[0].dtype
        keys = random.split(key, 3)
        dictionary = random_atoms(keys[0], data[0], num_latents)
        codes = tuple(
            START + random.normal(key, (len(signals), num_latents), dtype)
            for key, signals in zip(keys[1:], data, strict=False)
        )
        infinite = jnp.full((), jnp.inf, dtype)
        count = jnp.zeros((), jnp.int32)
        return _State(
            free=(dictionary, codes),
            adam=_adam().init((dictionary, codes)),
            # The codes only serve these signals, so the model names them.
            known=jnp.concatenate(data) if len(data) > 1 else None,
            rate=jnp.full((), RATE, dtype),
            best=infinite,
            worse=count,
            record=infinite,
            waited=count,
            updates=count,
        )

    def step(self, data, state):
        end = state.updates + self.block

        def unfinished(state):
            return (state.updates < end) & ~self.done(state)

        return lax.while_loop(unfinished, functools.partial(self._update, data), state)

    def done(self, state):
        return (state.updates > LEAST_UPDATES) & (state.waited >= PATIENCE)

    def model(self, state):
        dictionary, free = state.free
        model = Model(dictionary, jnp.zeros_like(dictionary[:, 0]))
        if state.known is None:
            return model
        codes = jax.nn.softplus(jnp.concatenate(free))
        return replace(model, encoder=LookupParameters(state.known, codes))

    def _loss(self, free: PyTree, data: tuple[Array, ...]) -> Float[Array, ""]:
        dictionary, parts = free
        live = live_share(data[0])
        loss = jnp.zeros((), dictionary.dtype)
        for signals, part in zip(data, parts, strict=True):
            codes = jax.nn.softplus(part)
            lengths = jnp.linalg.norm(dictionary, axis=0)
            error = jnp.mean((signals - codes @ dictionary.T) ** 2) / live
            loss += error + self.lam * jnp.mean(codes * lengths)
            # The other samples leave the dictionary alone.
            dictionary = lax.stop_gradient(dictionary)
        return loss

    def _update(self, data: tuple[Array, ...], state: _State) -> _State:
        loss, gradient = jax.value_and_grad(self._loss)(state.free, data)
        direction, adam = _adam().update(gradient, state.adam)
        free = tree.map(
            lambda value, change: value - state.rate * change, state.free, direction
        )
        better = loss < state.best
        worse = where(better, 0, state.worse + 1)
        halve = worse == 2
        rate = state.rate * where(better, 1.1, where(halve, 0.5, 1.0))
        counts = loss < state.record - IMPROVEMENT
        return state._replace(
            free=free,
            adam=adam,
            rate=jnp.clip(rate, LEAST_RATE, GREATEST_RATE),
            best=jnp.minimum(state.best, loss),
            worse=where(halve, 0, worse),
            record=where(counts, loss, state.record),
            waited=where(counts, 0, state.waited + 1),
            updates=state.updates + 1,
        )


def _adam() -> Any:
    # Imported here, since --help need not wait for it.
    import optax

    return optax.scale_by_adam()

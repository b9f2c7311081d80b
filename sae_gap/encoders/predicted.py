"""The codes that the input of a transcoder tells: a network predicts what the transcoder explains,
and another encoder codes the prediction.
"""

import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sae_gap.core import option, product
from sae_gap.encoders import Elsewhere

# Every so many-th training row tells which of the two maps predicts better.
HELD = 10
# The most operations and steps of a training.
WORK = 2e13
STEPS = 8_000
# Hidden units for each dimension of the input.
BREADTH = 4
# Looks at held-out rows, at most.
LOOKS = 20
# Rows of a step, the height of the rate of Adam, and the ridge in units of the inputs' squares.
BATCH = 512
RATE = 2e-3
RIDGE = 1e-3


class Network(eqx.Module):
    """`ŷ = x M + silu(x A + a) B + c`; without the hidden units a ridge regression."""

    slope: Float[Array, "num_inputs input_dim"]
    constant: Float[Array, " input_dim"]
    inner: Float[Array, "num_inputs hidden"]
    inner_bias: Float[Array, " hidden"]
    outer: Float[Array, "hidden input_dim"]

    def __call__(
        self, inputs: Float[Array, "n num_inputs"]
    ) -> Float[Array, "n input_dim"]:
        hidden = jax.nn.silu(product(inputs, self.inner) + self.inner_bias)
        return product(inputs, self.slope) + product(hidden, self.outer) + self.constant


def regression(
    inputs: Float[Array, "n num_inputs"], targets: Float[Array, "n input_dim"]
) -> Float[Array, "num_inputs input_dim"]:
    """Returns `(XᵀX + r I)⁻¹ XᵀY`, with r a thousandth of the mean of the diagonal of `XᵀX`."""
    square = product(inputs.T, inputs)
    size = RIDGE * jnp.trace(square) / len(square)
    eye = jnp.eye(len(square), dtype=square.dtype)
    return jnp.linalg.solve(square + size * eye, product(inputs.T, targets))


class Predicted(Elsewhere):
    """Codes a prediction of what a transcoder explains, so that they are a function of the input
    alone, as its own codes are.

    The prediction is a ridge regression on the inputs, or that and a layer of hidden units after
    some epoch, whichever predicts held-out training rows best. Codes that are given the target
    itself may use what the input does not tell; these show how much of that can be reached from the
    input.

    Args:
      encoder: codes the prediction.
      steps: steps of the training, of 512 rows each; None takes as many as some minutes allow on
        two cores, up to 8,000.
      known: the network; `prepared` trains it.
    """

    label = "predicted from the input"
    colour = "#44AA99"
    rank = 18
    reads_inputs = True

    steps: int | None = option(default=None, kw_only=True)

    @property
    def name(self):  # type: ignore[override]
        return f"predicted_{self.encoder.name}"

    def flops(self, input_dim, num_latents):
        """Returns None: those of the network are not counted."""

    def learned(self, task):
        num_inputs, dim = (
            part.shape[1] for part in (task.train.inputs, task.train.signals)
        )
        hidden = BREADTH * num_inputs
        products = num_inputs * hidden + hidden * dim + num_inputs * dim
        steps = self.steps or min(STEPS, round(WORK / (6 * BATCH * products)))
        return _predictor(task.train, hidden, steps)

    def moved(self, value, model, rows):
        return model, _signals(value, model, rows)


@eqx.filter_jit
def _signals(network, model, inputs):
    return model.signals(network(inputs), inputs)


# The last network, which dictionaries of one source share, and what it was trained on. The rows do
# not stay in memory for it.
_last: Any = {}


def _predictor(train, *sizes):
    if _last.get("sizes") != sizes or _last["train"]() is not train:
        x, y = (
            jnp.asarray(part, jnp.zeros(()).dtype)
            for part in (train.inputs, train.signals)
        )
        _last.update(
            train=weakref.ref(train), sizes=sizes, network=_trained(x, y, *sizes)
        )
    return _last["network"]


def _trained(x, y, hidden, steps):
    """Trains on all rows but every `HELD`-th, and chooses on those."""
    import optax

    kept = np.arange(len(x)) % HELD != 0
    (middle, own), (mean, unit) = (
        (z[kept].mean(axis=0), jnp.std(z[kept])) for z in (x, y)
    )
    x = (x - middle) / own
    y = (y - mean) / unit
    (few, truth) = (x[~kept], y[~kept])
    (x, y) = (x[kept], y[kept])
    slope = regression(x, y)
    inner = jax.random.normal(jax.random.key(0), (x.shape[1], hidden), x.dtype)
    zeros = jnp.zeros((hidden, y.shape[1]), x.dtype)
    ridge = Network(slope, zeros[0], inner / x.shape[1] ** 0.5, zeros[:, 0], zeros)
    size = min(BATCH, len(x))
    many = len(x) // size
    epochs = -(-steps // many)
    # Epochs between two looks at the held-out rows.
    apart = -(-epochs // LOOKS)
    looks = -(-epochs // apart)
    steps = looks * apart * many
    rule = optax.adam(
        optax.warmup_cosine_decay_schedule(0.0, RATE, steps // 20 + 1, steps)
    )

    def error(network, x, y):
        return jnp.mean((network(x) - y) ** 2)

    def step(state, rows):
        network, memory = state
        updates, memory = rule.update(
            jax.grad(error)(network, x[rows], y[rows]), memory
        )
        return (eqx.apply_updates(network, updates), memory), None

    @jax.jit
    def advance(state, numbers):
        def order(number):
            # Each epoch leaves out fewer rows than a batch has.
            return jax.random.permutation(jax.random.key(number), len(x))[: many * size]

        return jax.lax.scan(step, state, jax.vmap(order)(numbers).reshape(-1, size))[0]

    state = (ridge, rule.init(ridge))
    best = ridge
    least = error(ridge, few, truth)
    for numbers in np.arange(looks * apart).reshape(looks, apart):
        state = advance(state, numbers)
        if (found := error(state[0], few, truth)) < least:
            best = state[0]
            least = found
    inner = best.inner / own
    slope = unit / own * best.slope
    return Network(
        slope,
        mean + unit * best.constant - middle @ slope,
        inner,
        best.inner_bias - middle @ inner,
        unit * best.outer,
    )

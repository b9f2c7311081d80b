"""Codes for transcoders that depend on the input alone: a network predicts the target from the
input, and another encoder codes the prediction.
"""

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from equinox import Module, apply_updates, filter_jit
from jax import lax, random
from jaxtyping import Array, Float, Int

from sae_gap.core import Split, option, product
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


class Network(Module):
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
        num_inputs = task.train.inputs.shape[1]
        dim = task.train.signals.shape[1]
        hidden = BREADTH * num_inputs
        products = num_inputs * hidden + hidden * dim + num_inputs * dim
        steps = self.steps or min(STEPS, round(WORK / (6 * BATCH * products)))
        return _predictor(task.train, hidden, steps)

    def moved(self, value, model, rows):
        return model, _signals(value, model, rows)


@filter_jit
def _signals(network, model, inputs):
    return model.signals(network(inputs), inputs)


# The last network, which dictionaries of one source share, and what it was trained on. The rows do
# not stay in memory for it.
_last: Any = {}


def _predictor(train: Split, hidden: int, steps: int) -> Network:
    sizes = hidden, steps
    if _last.get("sizes") != sizes or _last["train"]() is not train:
        kind = jnp.zeros(()).dtype
        inputs = jnp.asarray(train.inputs, kind)
        network = _trained(inputs, jnp.asarray(train.signals, kind), hidden, steps)
        _last.update(train=weakref.ref(train), sizes=sizes, network=network)
    return _last["network"]


def _trained(
    inputs: Float[Array, "n num_inputs"],
    targets: Float[Array, "n input_dim"],
    hidden: int,
    steps: int,
) -> Network:
    """Trains on all rows but every `HELD`-th, less their mean and in units of their deviation, and
    chooses on those.
    """
    kept = np.arange(len(inputs)) % HELD != 0
    centre = inputs[kept].mean(axis=0)
    scale = jnp.std(inputs[kept])
    bias = targets[kept].mean(axis=0)
    unit = jnp.std(targets[kept])
    x = (inputs - centre) / scale
    y = (targets - bias) / unit
    ridge = _ridge(x[kept], y[kept], hidden)
    best = _best_epoch(ridge, x[kept], y[kept], x[~kept], y[~kept], steps)
    inner = best.inner / scale
    slope = unit / scale * best.slope
    return Network(
        slope,
        bias + unit * best.constant - centre @ slope,
        inner,
        best.inner_bias - centre @ inner,
        unit * best.outer,
    )


def _ridge(
    x: Float[Array, "n num_inputs"], y: Float[Array, "n input_dim"], hidden: int
) -> Network:
    """The regression, with hidden units that add nothing yet."""
    inner = random.normal(random.key(0), (x.shape[1], hidden), x.dtype)
    zeros = jnp.zeros((hidden, y.shape[1]), x.dtype)
    inner = inner / x.shape[1] ** 0.5
    return Network(regression(x, y), zeros[0], inner, zeros[:, 0], zeros)


def _error(
    network: Network, x: Float[Array, "n num_inputs"], y: Float[Array, "n input_dim"]
) -> Float[Array, ""]:
    return jnp.mean((network(x) - y) ** 2)


def _best_epoch(
    network: Network,
    x: Float[Array, "n num_inputs"],
    y: Float[Array, "n input_dim"],
    held_x: Float[Array, "m num_inputs"],
    held_y: Float[Array, "m input_dim"],
    steps: int,
) -> Network:
    """The network, or what training makes of it, whichever predicts held-out rows best."""
    import optax

    size = min(BATCH, len(x))
    batches = len(x) // size
    epochs = -(-steps // batches)
    # Epochs between two looks at the held-out rows.
    apart = -(-epochs // LOOKS)
    looks = -(-epochs // apart)
    steps = looks * apart * batches
    rule = optax.adam(
        optax.warmup_cosine_decay_schedule(0.0, RATE, steps // 20 + 1, steps)
    )

    def step(state: Any, rows: Int[Array, " size"]) -> tuple[Any, None]:
        network, memory = state
        slope = jax.grad(_error)(network, x[rows], y[rows])
        updates, memory = rule.update(slope, memory)
        return (apply_updates(network, updates), memory), None

    def order(number: Int[Array, ""]) -> Int[Array, " rows"]:
        # Each epoch leaves out fewer rows than a batch has.
        return random.permutation(random.key(number), len(x))[: batches * size]

    @jax.jit
    def advance(state: Any, numbers: Int[Array, " apart"]) -> Any:
        return lax.scan(step, state, jax.vmap(order)(numbers).reshape(-1, size))[0]

    state = network, rule.init(network)
    best = network
    least = _error(network, held_x, held_y)
    for numbers in np.arange(looks * apart).reshape(looks, apart):
        state = advance(state, numbers)
        error = _error(state[0], held_x, held_y)
        if error < least:
            best = state[0]
            least = error
    return best

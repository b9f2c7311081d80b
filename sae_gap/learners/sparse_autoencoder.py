"""Sparse autoencoders: one training loop for all encoders."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from equinox import Module, apply_updates, tree_at
from jax import lax, random, tree
from jax.numpy import maximum, where, zeros
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from sae_gap.core import Model, Split, check_type, option
from sae_gap.encoders import Affine, AmortisedEncoder, keep_largest, unit_atoms
from sae_gap.learners import Learner, base_of, batches, live_dims, live_share
from sae_gap.runtime import sharding

# The target L0 falls to the requested one over this share of a fit; and the weight of the newest
# batch in the running mean L0.
APPROACH = 0.3
NEWEST = 0.05
# A steered penalty's first factor, and the step of its logarithm, in shares of the steps so far
# plus this head start of the fit. It starts small, as latents that a large early penalty closes do
# not open again.
GENTLE = 0.01
GAIN = 30.0
HEAD_START = 0.05
# The step of the logarithm of all thresholds, in units of the error.
NUDGE = 0.02
# The gain of a first encoder is found on so many signals.
FEW = 500


class Steering(Module):
    """The state of a steered penalty: the logarithm of its factor, the running mean L0, the first
    batch's mean L0, and the number of finished steps.
    """

    log_factor: Float[Array, ""]
    mean: Float[Array, ""]
    first: Float[Array, ""]
    done: Int[Array, ""]


class SAEState(Module):
    """`live` is the share of dimensions with a non-zero signal; `steering` is None if the penalty
    is fixed.

    `model` is for the signals `(y - mean) / unit`; the mean is 0 and the unit 1 unless the learner
    is standardised.
    """

    model: Model
    optimiser: PyTree
    epoch: Int[Array, ""]
    live: Float[Array, ""]
    key: PRNGKeyArray
    steering: Steering | None
    mean: Float[Array, " input_dim"]
    unit: Float[Array, ""]


class SparseAutoencoder(Learner):
    """Trains an encoder and a dictionary together on `mean (y - b - D z)² + penalty · mean P(z)`.

    The encoder starts uniform on ±1/√input_dim, and the dictionary as its transpose with unit
    atoms. AdamW trains with weight decay on every parameter. Before each step the dictionary's
    gradient is projected orthogonal to its atoms (`g - (g·d) d`), which are rescaled to unit norm
    every `renormalise_every` epochs. Each epoch visits every sample once in a fresh order; the last
    batch may be smaller.

    With `l0`, the penalty is steered so that a sample has so many active latents on average, for
    any initial weight. At step t of T let L be the running mean L0 of batches, and r the target L0,
    which falls geometrically from the first batch's L0 to `l0` at t = .3 T, and `e = log(L / r)`,
    within ±1. Then

        log f ← log f + 30 e / (t + T / 20),   f = .01 at the start,
        weight of the penalty = penalty · f · exp(e).

    If the encoder has thresholds, they are also multiplied by exp(.02 e), since few values
    contribute to their own gradient. L0 is measured on training samples; other samples have
    another. It takes some thousand steps to settle.

    Args:
      encoder: the encoder to train, with its sparsity penalty P.
      num_steps: epochs.
      batch_size: samples in a step.
      learning_rate: of AdamW. None takes 1.2 / (√num_latents ∜T) for T steps in all. That is close
        to the best for BatchTopK SAEs of 1,024 to 6,144 latents on standardised activations, for
        352 to 5,616 steps of 256 samples along a cosine.
      weight_decay: of AdamW, on every parameter.
      penalty: weight of the encoder's penalty.
      renormalise_every: epochs between renormalisations; the first follows epoch 0. None
        renormalises after every step, which an epoch of thousands of steps needs.
      l0: the final mean L0, if the encoder has a penalty; None fixes the penalty.
      base: the learner whose dictionary, bias and encoder, if any, it starts from; None starts at
        random.
      schedule: of the rate: "constant", or "cosine", which rises over a twentieth of the steps and
        falls to zero along half a cosine.
      frozen: whether the dictionary and the bias stay the base's, so that only the encoder is
        trained; if it has `calibrate`, without steps. On the signals that the base learned
        from, that finds a threshold which leaves more latents on in others: 39 for 32 with ten
        signals an atom, 32.3 with eighty.
      standardised: whether to learn from `(y - mean) / unit`, with the mean of the training signals
        and the root mean square about it. If the mean is a large share of a network's activations,
        most latents of an SAE would die otherwise. The final model takes the signals themselves:
        its atoms are as long as the unit, and its encoder's affine maps undo the scaling. From a
        base it only takes the dictionary D and the bias b. Its encoder then starts as
        `a Dᵀ(y - b)`; with a, the largest of these, as many as the encoder keeps, have the least
        squared error. Without a, tied encoders overshoot by as much as atoms are coherent.

    References:
      Barin Pacela et al. (2026), arXiv:2603.28744, appendix. Loshchilov & Hutter (2019), "Decoupled
      weight decay".
    """

    family = "sae"

    encoder: AmortisedEncoder
    num_steps: int = option(default=500, kw_only=True)
    batch_size: int = option(default=64)
    learning_rate: float | None = option(default=5e-4, above=0)
    weight_decay: float = option(default=1e-2, least=0)
    penalty: float = option(default=1e-4, least=0)
    renormalise_every: int | None = option(default=50)
    l0: float | None = option(default=None, above=0)
    schedule: str = option(default="constant", choices=("constant", "cosine"))
    frozen: bool = option(default=False)
    standardised: bool = option(default=False)

    # The learner's own rate, in units of 1 / (√num_latents ∜steps).
    peak_rate: ClassVar[float] = 1.2
    # Epochs 0, 10, 20, ... as the paper counts them, from the end of the first.
    snapshots = (1, 11, 21, 51, 101, 201, 301, 401)

    def __check_init__(self):
        check_type(
            "encoder",
            self.encoder,
            AmortisedEncoder,
            "give one that a sparse autoencoder trains, such as TopK(10)",
        )
        if (
            self.l0 is not None
            and type(self.encoder).with_penalty is AmortisedEncoder.with_penalty
        ):
            raise ValueError(
                f"{type(self.encoder).__name__} has no penalty that l0 could steer; leave l0 out."
            )
        if self.frozen and self.base is None:
            raise ValueError(
                "a frozen dictionary needs a base, the learner whose dictionary it is; give base."
            )

    @property
    def name(self):  # type: ignore[override]
        return base_of(self).name if self.frozen else self.encoder.name

    @property
    def encode(self):
        return self.encoder

    def _optimiser(self, num_samples, num_latents):
        # Imported here, since --help need not wait for it.
        import optax

        total = max(2, self.num_steps * -(-num_samples // self.batch_size))
        height = self.learning_rate
        if height is None:
            height = self.peak_rate / (num_latents**0.5 * total**0.25)
        share = optax.warmup_cosine_decay_schedule(0.0, 1.0, max(1, total // 20), total)
        rate = (
            (lambda step: height * share(step)) if self.schedule == "cosine" else height
        )
        return optax.adamw(rate, weight_decay=self.weight_decay)

    def init(self, data, *, num_latents, key, base=None):
        signals = data.signals
        dtype = data.signals.dtype
        input_dim = signals.shape[1]
        if self.standardised:
            mean, unit = scales(signals)
        else:
            mean = zeros(input_dim, dtype)
            unit = jnp.ones((), dtype)
        # A split uses 0 and 1.
        parameters_key = random.fold_in(key, 2)
        weights_key, key = random.split(key)
        live = live_share(signals)
        bound = input_dim**-0.5
        if base is None:
            weight = random.uniform(
                weights_key,
                (input_dim, num_latents),
                dtype,
                minval=-bound,
                maxval=bound,
            )
            weight = where(live_dims(signals)[:, None], weight / jnp.sqrt(live), 0)
            atoms = unit_atoms(weight)[0]
            bias = zeros(input_dim, dtype)
        else:
            weight = atoms = unit_atoms(base.decoder)[0]
            bias = (base.bias - mean) / unit
            if self.standardised:
                weight = self._gain(atoms, (few(signals) - mean) / unit - bias) * atoms
        parameters = self.encoder.parameters(weight, parameters_key)
        if base is not None and not self.standardised:
            # Another kind of encoder has parameters of its own.
            alike = tree.structure(base.encoder) == tree.structure(parameters)  # type: ignore[operator]
            parameters = base.encoder if alike else parameters
        model = Model(atoms, bias, parameters)
        if self.frozen:
            # Zero rows, such as padding, stay zero and do not count.
            counted = jnp.any(signals != 0, axis=1, keepdims=True)
            model = self.encoder.calibrate(
                model, where(counted, (signals - mean) / unit, 0)
            )
        return self._started(model, signals, key, mean, unit)

    def _started(
        self,
        model: Model,
        signals: Float[Array, "n input_dim"],
        key: PRNGKeyArray,
        mean: Float[Array, " columns"],
        unit: Float[Array, "..."],
    ) -> SAEState:
        """Returns the state of a model before the first step."""
        zero = zeros((), signals.dtype)
        count = zeros((), jnp.int32)
        steering = None
        if self.l0 is not None:
            steering = Steering(zero + jnp.log(GENTLE), zero, zero, count)
        optimiser = self._optimiser(len(signals), model.decoder.shape[1]).init(model)
        return SAEState(
            model, optimiser, count, live_share(signals), key, steering, mean, unit
        )

    def done(self, state):
        return (
            self.frozen
            and type(self.encoder).calibrate is not AmortisedEncoder.calibrate
        )

    def step(self, data: Split, state: SAEState) -> SAEState:
        shuffle_key, key = random.split(state.key)
        epoch = batches(shuffle_key, len(data.signals), self.batch_size)
        rule = self._optimiser(len(data.signals), state.model.decoder.shape[1])
        number = jnp.arange(len(epoch[0])) + state.epoch * len(epoch[0])
        total = self.num_steps * len(epoch[0])
        done = number / max(1, total - 1)

        def train_step(carry: tuple, batch: tuple) -> tuple[tuple, None]:
            model, optimiser, steering = carry
            indices, weights, done = batch
            signals, weights = sharding.split_batch(
                (self._rows(data, indices), weights)
            )
            signals = (signals - state.mean) / state.unit
            penalty = jnp.asarray(self.penalty)
            error = None
            if steering is not None:
                active = jnp.sum(self.encoder(model, signals) != 0, axis=1)
                active = jnp.sum(weights * active)
                steering, factor, error = self._steer(steering, active, total)
                penalty = penalty * factor
            # Padding lowers squared errors, which are means over all dimensions; but only their
            # ratio matters to Adam.
            penalty = penalty * state.live
            gradient, seen = self._gradient(model, signals, weights, penalty, done)
            updates, optimiser = rule.update(gradient, optimiser, model)
            model = self._moved(model, updates, seen, error)
            return (model, optimiser, steering), None

        carry = state.model, state.optimiser, state.steering
        (model, optimiser, steering), _ = lax.scan(train_step, carry, (*epoch, done))
        if self.renormalise_every is not None and not self.frozen:
            model = lax.cond(
                state.epoch % self.renormalise_every == 0,
                _unit,
                lambda model: model,
                model,
            )
        return replace(
            state,
            model=model,
            optimiser=optimiser,
            epoch=state.epoch + 1,
            key=key,
            steering=steering,
        )

    def _gradient(
        self,
        model: Model,
        signals: Float[Array, "n columns"],
        weights: Float[Array, " n"],
        penalty: Float[Array, ""],
        done: Float[Array, ""],
    ) -> tuple[Model, PyTree]:
        """Returns the gradient of a batch's loss, the dictionary's orthogonal to its atoms; and
        what the encoder observed.
        """

        def loss(model: Model) -> tuple[Array, PyTree]:
            if self.frozen:
                # Without the products of gradients that nothing takes.
                model = tree_at(_fixed, model, replace_fn=lax.stop_gradient)
            losses, seen = self.encoder.loss_after(done, model, signals, penalty)
            return jnp.sum(weights * losses), seen

        gradient, seen = jax.grad(loss, has_aux=True)(model)
        atoms = model.decoder
        slope = gradient.decoder
        # As published, atoms count as unit here. Between renormalisations they are unit to a per
        # cent; the rest of a radial gradient shows in the norms of an l1-penalised dictionary.
        slope = slope - jnp.sum(slope * atoms, axis=0) * atoms
        return tree_at(lambda model: model.dictionary, gradient, slope), seen

    def _moved(
        self, model: Model, updates: Model, seen: PyTree, error: Array | None
    ) -> Model:
        """Returns the model after the updates of a step; `error` is that of a steered L0."""
        if self.frozen:
            updates = tree_at(_fixed, updates, replace_fn=jnp.zeros_like)
        model = self.encoder.observe(apply_updates(model, updates), seen)
        if error is not None:
            model = self.encoder.raised(model, NUDGE * error)
        if self.renormalise_every is None and not self.frozen:
            model = _unit(model)
        return model

    def model(self, state):
        model = state.model
        unit = state.unit
        return replace(
            model,
            dictionary=unit * model.decoder,
            bias=state.mean + unit * model.bias,
            encoder=unscaled(model.encoder, unit),
        )

    def _rows(
        self, data: Split, indices: Int[Array, " n"]
    ) -> Float[Array, "n columns"]:
        """Returns rows, (n, columns), as the encoder and its loss take them."""
        return data.signals[indices]

    def _gain(self, atoms, targets):
        """Returns the a of `a z` that fits the targets best, where z are the codes that a tied
        encoder keeps.
        """
        codes = jax.nn.relu(targets @ atoms)
        kept = (
            getattr(self.encoder, "k", atoms.shape[1]) if self.l0 is None else self.l0
        )
        guess = keep_largest(codes, jnp.ceil(kept).astype(int)) @ atoms.T
        return jnp.sum(targets * guess) / maximum(
            jnp.sum(guess**2), jnp.finfo(guess.dtype).tiny
        )

    def _steer(self, steering: Steering, active, total):
        """Returns the state after a batch of this mean L0, out of `total` batches, the penalty's
        factor, and e.
        """
        assert self.l0 is not None
        begins = steering.done == 0
        first = where(begins, active, steering.first)
        mean = where(begins, active, steering.mean + NEWEST * (active - steering.mean))
        least = jnp.finfo(mean.dtype).tiny
        left = maximum(0, 1 - steering.done / (APPROACH * total))
        aimed = self.l0 * (maximum(first, least) / self.l0) ** left
        error = jnp.clip(jnp.log(maximum(mean, least) / aimed), -1, 1)
        log_factor = (
            steering.log_factor + GAIN / (steering.done + HEAD_START * total) * error
        )
        moved = Steering(log_factor, mean, first, steering.done + 1)
        # In double precision, the mean of a batch in single precision is double.
        moved = tree.map(lambda new, old: new.astype(old.dtype), moved, steering)
        return (
            moved,
            jnp.exp(moved.log_factor + error).astype(moved.mean.dtype),
            error.astype(moved.mean.dtype),
        )


def scales(
    rows: Float[Array, "n dim"],
) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
    """Returns the mean of rows, and the root mean square about it."""
    mean = jnp.mean(rows, axis=0)
    return mean, jnp.sqrt(jnp.mean((rows - mean) ** 2))


def few(rows: Float[Array, "n dim"]) -> Float[Array, "some dim"]:
    """Returns at most `FEW` of the rows, from all over."""
    return rows[:: -(-len(rows) // FEW)]


def unscaled(encoder: PyTree, unit: Float[Array, ""]) -> PyTree:
    """Returns the parameters of an encoder of rows in units, for the rows themselves."""

    def scaled(part: PyTree) -> PyTree:
        return (
            Affine(part.weight / unit, part.bias) if isinstance(part, Affine) else part
        )

    return tree.map(scaled, encoder, is_leaf=lambda part: isinstance(part, Affine))


def _fixed(model: Model) -> tuple[PyTree, PyTree]:
    return model.dictionary, model.bias


def _unit(model: Model) -> Model:
    squares = jnp.sum(model.decoder**2, axis=0)
    scale = lax.rsqrt(where(squares > 0, squares, 1))
    return tree_at(lambda model: model.dictionary, model, scale * model.decoder)

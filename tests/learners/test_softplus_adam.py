"""Softplus-Adam against the same descent in NumPy, its rate and its stop included, and who sees
what.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sae_gap import Models, fit
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.softplus_adam import SoftplusAdam
from sae_gap.study.inference import Inference

KEY = jax.random.key(0)


def softplus(free):
    return np.logaddexp(free, 0)


@jax.jit
def loss_of(parts, signals, others):
    """The published loss, of which the other samples leave the dictionary alone."""
    dictionary, *frees = parts
    total, held = 0.0, dictionary
    for free, target in zip(frees, (signals, others), strict=False):
        codes = jnp.logaddexp(free, 0)
        error = codes @ held.T - target
        total += jnp.mean(error**2) + 0.1 * jnp.mean(codes * jnp.linalg.norm(held, axis=0))
        held = jax.lax.stop_gradient(dictionary)
    return total


class ByHand:
    """The whole descent, one update at a time."""

    def __init__(self, parts, rate):
        self.parts, self.rate, self.best, self.worse = [*parts], rate, np.inf, 0
        self.rule, self.rates = optax.scale_by_adam(), []
        self.state, self.slopes = self.rule.init(self.parts), jax.jit(jax.value_and_grad(loss_of))

    def update(self, signals, others):
        loss, slopes = self.slopes(self.parts, signals, others)
        directions, self.state = self.rule.update(slopes, self.state)
        self.parts = [
            part - self.rate * direction
            for part, direction in zip(self.parts, directions, strict=True)
        ]
        if loss < self.best:
            self.best, self.worse, self.rate = loss, 0, self.rate * 1.1
        else:
            self.worse += 1
            if self.worse == 2:
                self.worse, self.rate = 0, self.rate * 0.5
        self.rate = min(max(self.rate, 1e-6), 1)
        self.rates.append(self.rate)


@pytest.mark.parametrize("split", ["train", "id"])
def test_updates_against_numpy(task, split):
    with jax.enable_x64(True):
        task = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), task)
        learner = SoftplusAdam(split=split, block=100)
        data = learner.select(task)
        state = eqx.filter_jit(learner.init)(data, num_latents=20, key=KEY)
        dictionary, codes = state.free
        hand = ByHand([dictionary, *codes], 1e-3)
        assert len(codes) == (2 if split == "id" else 1)
        step = eqx.filter_jit(learner.step)
        for number in (1, 2):
            state = step(data, state)
            for _ in range(100):
                hand.update(*data, *([None] if split == "train" else []))
            assert int(state.updates) == 100 * number
            assert float(state.rate) == pytest.approx(hand.rate, rel=1e-6)
            assert float(state.best) == pytest.approx(float(hand.best), rel=1e-8)
        model = learner.model(state)
    # The rate both rose and fell on the way.
    assert max(hand.rates) > 2e-3 and (np.diff(hand.rates) < 0).any()
    for ours, theirs in zip([state.free[0], *state.free[1]], hand.parts, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_array_equal(model.dictionary, state.free[0])
    if split == "id":
        np.testing.assert_allclose(
            model.encoder.codes,
            np.concatenate([softplus(part) for part in hand.parts[1:]]),
            atol=1e-6,
        )


def test_its_own_codes_come_back_through_a_stored_fit(setting, task, tmp_path):
    learner = SoftplusAdam(split="id", num_steps=4, block=100)
    first, again = (Models(tmp_path).fit(learner, [setting], [task])[0].end for _ in range(2))
    assert len(list(tmp_path.glob("softplus_adam-*"))) == 1
    for fitted in (first, again):
        inference = Inference(task, fitted.model)
        codes = [
            np.asarray(inference.infer(learner.encode, split).codes) for split in ("id", "ood")
        ]
        np.testing.assert_array_equal(np.concatenate(codes), first.model.encoder.codes)
        assert np.isfinite(inference.infer(learner.encode, "train").codes).all()
    error = np.mean((task.id.signals - codes[0] @ np.asarray(first.model.dictionary).T) ** 2)
    assert error < 0.5 * np.mean(np.square(task.id.signals))


def test_its_loss_is_the_lassos_at_the_equivalent_weight(task):
    """Given the dictionary that it ends with, no codes have a lower loss than those of the lasso at
    `λ input_dim / (2 n)`.
    """
    learner = SoftplusAdam(num_steps=2, block=200)
    data = learner.select(task)
    model = fit(learner, [task], [KEY])[0].end.model
    dictionary, signals = (np.asarray(array, np.float64) for array in (model.dictionary, data[0]))

    def loss(codes):
        free = np.log(np.expm1(np.maximum(codes, 1e-12)))
        with jax.enable_x64(True):
            return float(loss_of([dictionary, free], signals, None))

    losses = {
        weight: loss(np.asarray(Lasso(weight)(model, data[0]), np.float64))
        for weight in (0.02, 0.03, 0.045)
    }
    assert min(losses, key=losses.get) == 0.03


@pytest.mark.parametrize(
    ("least_updates", "patience", "expected"), [(30, 10, 31), (5, 10, 11), (0, 2_000, 100)]
)
def test_when_it_stops(task, least_updates, patience, expected):
    """Nothing counts as an improvement by a thousand but the first loss, against none."""
    learner = SoftplusAdam(
        num_steps=5, block=20, improvement=1e3, least_updates=least_updates, patience=patience
    )
    data = learner.select(task)
    state = eqx.filter_jit(learner.init)(data, num_latents=20, key=KEY)
    step = eqx.filter_jit(learner.step)
    for _ in range(5):
        state = step(data, state)
    assert int(state.updates) == expected
    assert [one.end.step for one in fit(learner, [task], [KEY])] == [-(-expected // 20)]

"""The encoders of SAEs against their equations: codes, losses, gradients and thresholds; the k largest
of each row against a sort, with ties, zeros and NaN, and the gradient through them.
"""

import dataclasses
import functools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark, raises

from sae_gap import catalogue
from sae_gap.core import Model
from sae_gap.encoders import (
    LISTA,
    Affine,
    BatchTopK,
    Encoder,
    JumpReLU,
    LearnedSteps,
    keep_largest,
)
from sae_gap.encoders.topk import _by_bits
from sae_gap.solvers import fista, greedy

partial = functools.partial
COUNT = 9
DIM = 4
WIDTH = 7
K = 2
PENALTY = 0.3
RATE = 0.25
WIDE = 0.4
LAM = 0.1
# Shares of 1, 3, 7, 15 and all 32 parts of seven latents, rounded up.
ENDS = 1, 1, 2, 4, WIDTH
stop = lax.stop_gradient


def drawn(encoder, trained=True):
    """A model whose parameters are those that training starts from, or moved; and signals."""
    rng = default_rng(0)
    shapes = (DIM, WIDTH), (DIM, WIDTH), DIM, (COUNT, DIM)
    weight, atoms, bias, y = (jnp.asarray(rng.normal(size=shape)) for shape in shapes)
    parameters = encoder.parameters(weight, jax.random.key(0))
    moved = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0.05, 0.4, leaf.shape), parameters
    )
    return Model(atoms, bias, moved if trained else parameters), y


def mapped(model, y):
    affine = getattr(model.encoder, "affine", model.encoder)
    return (y - model.bias) @ affine.weight + affine.bias


def largest(values, count):
    """By a sort of all values."""
    order = jnp.argsort(-values, axis=None)
    return values * (jnp.argsort(order) < count).reshape(values.shape)


def error(model, y, codes, end=WIDTH):
    found = codes[:, :end] @ model.dictionary[:, :end].T + model.bias
    return jnp.mean((found - y) ** 2, axis=1)


def relu(model, y):
    codes = mapped(model, y).clip(0)
    return codes, error(model, y, codes) + PENALTY * codes.sum(axis=1), None


def topk(model, y):
    codes = jax.vmap(partial(largest, count=K))(mapped(model, y).clip(0))
    return codes, error(model, y, codes), None


def gated(model, y):
    """Rajamanoharan et al. (2024), eqs. 6 to 8: the auxiliary error trains no decoder."""
    encoder = model.encoder
    centred = y - model.bias
    gate = centred @ encoder.gate.weight + encoder.gate.bias
    scaled = encoder.gate.weight * jnp.exp(encoder.log_scale)
    codes = (gate > 0) * (centred @ scaled + encoder.bias).clip(0)
    losses = error(model, y, codes) + PENALTY * gate.clip(0).sum(axis=1)
    return codes, losses + error(stop(model), y, gate.clip(0)), None


def jumprelu(model, y):
    """Rajamanoharan et al. (2024), eqs. 11 and 12: with K the window, the derivative of the codes
    in θ is -θ/ε K((z - θ)/ε), and that of the step -1/ε K.
    """
    hidden = mapped(model, y).clip(0)
    threshold = jnp.exp(model.encoder.log_threshold)
    on = hidden > threshold
    near = (abs(hidden - threshold) < WIDE / 2) / WIDE
    change = stop(near) * (threshold - stop(threshold))
    codes = on * hidden - stop(threshold) * change
    return codes, error(model, y, codes) + PENALTY * (on - change).sum(axis=1), None


def batchtopk(model, y, ends=(WIDTH,), step=0.0):
    threshold = model.encoder.threshold
    before = mapped(model, y)
    rest = y - model.bias - ((before > threshold) * before.clip(0)) @ model.dictionary.T
    hidden = (before + step * rest @ model.encoder.affine.weight).clip(0)
    kept = largest(hidden, K * COUNT)
    least = jnp.where(kept > 0, kept, jnp.inf).min()
    seen = jnp.where(threshold > 0, (1 - RATE) * threshold + RATE * least, least)
    losses = sum(error(model, y, kept, end) for end in ends) / len(ends)
    return hidden * (hidden > threshold), losses, seen


def lista(model, y, depth=3, factored=True):
    weight, threshold, recurrence = dataclasses.astuple(model.encoder)
    target = y - model.bias
    codes = jnp.zeros((COUNT, WIDTH))
    for layer in range(depth):
        if factored:
            codes = codes + (target - codes @ model.dictionary.T) @ weight[layer]
        else:
            codes = target @ weight[layer] + (
                codes @ recurrence[layer - 1] if layer else 0
            )
        codes = (codes - threshold[layer]).clip(0)
    return codes, error(model, y, codes), None


def learned_steps(model, y, breadth=1):
    """Each step codes what the largest so far leave, and adds to these."""
    first = model.encoder.first
    target = y - model.bias
    if isinstance(first, Affine):
        codes = target @ first.weight + first.bias
    else:
        within = (target @ first.inner.weight + first.inner.bias).clip(0)
        codes = target @ first.direct.weight + first.direct.bias + within @ first.outer
    for step in model.encoder.steps:
        few = jax.vmap(partial(largest, count=breadth * K))(codes.clip(0))
        codes = few + (target - few @ model.dictionary.T) @ step.weight + step.bias
    codes = jax.vmap(partial(largest, count=K))(codes.clip(0))
    return codes, error(model, y, codes), None


def pursued(model, y, steps, nonneg=False):
    """Autodiff sees every step, but not the choice of an atom."""
    lengths = jnp.linalg.norm(model.dictionary, axis=0)

    def code(rest):
        codes = jnp.zeros(WIDTH)
        on = jnp.zeros(WIDTH, bool)
        for _ in range(steps):
            pull = rest @ (model.dictionary / lengths)
            best = jnp.argmax(jnp.where(on, -jnp.inf, pull if nonneg else abs(pull)))
            value = pull[best].clip(0 if nonneg else None) / lengths[best]
            codes = codes.at[best].set(value)
            on = on.at[best].set(True)
            rest = rest - value * model.dictionary[:, best]
        return codes, jnp.mean(rest**2)

    return *jax.vmap(code)(y - model.bias), None


KINDS = catalogue.encoders()
MATRYOSHKA = (
    KINDS["matryoshka"](K, rate=RATE),
    KINDS["lista_matryoshka"](K, step=0.5, rate=RATE),
)
FORMS = [
    (KINDS["relu"](), relu),
    (KINDS["topk"](K), topk),
    (KINDS["gated"](), gated),
    (JumpReLU(threshold=0.3, bandwidth=WIDE), jumprelu),
    (BatchTopK(K, rate=RATE), batchtopk),
    (MATRYOSHKA[0], partial(batchtopk, ends=ENDS)),
    (MATRYOSHKA[1], partial(batchtopk, ends=ENDS, step=0.5)),
    (LISTA(3, LAM), lista),
    (LISTA(3, LAM, False), partial(lista, factored=False)),
    (LearnedSteps(K, 0), learned_steps),
    (LearnedSteps(K, 3, 2), partial(learned_steps, breadth=2)),
    (LearnedSteps(K, 2, 1, hidden=5), learned_steps),
    (KINDS["mp"](K), partial(pursued, steps=K)),
    (KINDS["mp"](3), partial(pursued, steps=3)),
    (KINDS["mp"](WIDTH, nonneg=True), partial(pursued, steps=WIDTH, nonneg=True)),
]


@eqx.filter_jit
def told(form, model, y):
    """The slopes of weighted losses, and all that a form gives."""

    def total(model):
        seen = form(model, y)
        if isinstance(form, Encoder):
            seen = seen, *form.loss(model, y, PENALTY)
        return seen[1] @ jnp.linspace(1, 2, COUNT), seen

    return jax.grad(total, has_aux=True)(model)


@mark.parametrize("trained", [False, True])
@mark.parametrize(("encoder", "reference"), FORMS)
def test_codes_losses_and_gradients_are_those_of_the_equations(
    encoder, reference, trained, monkeypatch
):
    # Three steps of matching pursuit go without a Gram matrix.
    monkeypatch.setattr(
        greedy, "MOST_CARRIED", WIDTH if getattr(encoder, "k", 0) == K else 0
    )
    model, y = drawn(encoder, trained)
    found, expected = (told(form, model, y) for form in (encoder, reference))
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert_allclose(one, other, rtol=1e-4, atol=2e-5)
    codes, _, seen = found[1]
    assert 0 < np.count_nonzero(codes) < codes.size
    if seen is not None:
        assert encoder.observe(model, seen).encoder.threshold == seen


@mark.parametrize("encoder", [BatchTopK(K), JumpReLU()])
def test_a_raised_threshold_is_that_much_higher(encoder):
    model, y = drawn(encoder)
    hidden = encoder.affine(model)(y - model.bias)
    [*_, threshold] = jax.tree.leaves(model.encoder)
    assert_allclose(hidden, mapped(model, y), rtol=1e-5)
    high = 20 * (threshold if encoder == BatchTopK(K) else jnp.exp(threshold))
    found = encoder(encoder.raised(model, np.log(20.0)), y)
    assert_allclose(found, np.where(hidden > high, hidden, 0), rtol=1e-5)


def test_a_batch_that_keeps_nothing_leaves_the_threshold():
    model, y = drawn(BatchTopK(K))
    low = eqx.tree_at(
        lambda model: model.encoder.affine.bias, model, jnp.full(WIDTH, -99.0)
    )
    assert BatchTopK(K).loss(low, y, 0)[1] == model.encoder.threshold > 0


def test_a_model_without_a_threshold_is_refused():
    model, y = drawn(MATRYOSHKA[0])
    with raises(TypeError, match="give a model that matryoshka was trained with"):
        MATRYOSHKA[0](replace(model, encoder=model.encoder.affine), y)


def test_what_a_batch_keeps_falls_linearly_from_its_start():
    """From twice two latents a sample to two; without a start two throughout. There are nine."""
    falling = eqx.filter_jit(lambda encoder, *given: encoder.loss_after(*given)[0])
    for start, done, count in ((2, 0.0, 36), (2, 0.5, 27), (2, 1.0, 18), (1, 0.0, 18)):
        encoder = BatchTopK(K, initial_factor=start)
        model, y = drawn(encoder)
        expected = error(model, y, largest(mapped(model, y).clip(0), count))
        found = falling(encoder, jnp.asarray(done), model, y, 0)
        assert_allclose(found, expected, rtol=1e-5)


@mark.parametrize("factored", [True, False])
def test_untrained_lista_is_ista(factored):
    encoder = LISTA(3, LAM, factored)
    model, y = drawn(encoder)
    tied = replace(model, encoder=encoder.parameters(model.dictionary, None))
    given = y - model.bias, model.dictionary, LAM, jnp.zeros((COUNT, WIDTH))
    expected = fista.fixed(*given, iterations=3, momentum=False)
    assert_allclose(eqx.filter_jit(encoder)(tied, y), expected, atol=1e-5)
    fixed = LISTA(threshold=0.7).parameters(model.dictionary, None)
    assert (fixed.threshold == jnp.float32(0.7)).all()


# Compiled for each k; accelerators, which sort nothing, must keep the same.
WAYS = [jax.jit(way, static_argnums=1) for way in (keep_largest, _by_bits)]
# Few values, so that ties are the rule. Programs take subnormal floats for zero.
TINY = np.finfo(np.float32).tiny
NEXT = np.nextafter(np.float32(0.5), np.float32(1))
LEVELS = np.array([0.0, -0.0, TINY, 0.5, NEXT, 1.0, 3e38, np.inf], np.float32)


def thin(values, k):
    found, kept = (way(values, k) for way in WAYS)
    assert_array_equal(jnp.where(kept & ~(values <= 0), values, 0), found)
    return found


@mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
@mark.parametrize("k", [1, 9, 21])
def test_against_a_sort(k, dtype):
    """A stable sort gives ties to the lower index."""
    rng = default_rng(k)
    few = rng.random((40, 20)) * (rng.random((40, 20)) < 0.4)
    values = np.concatenate([few, rng.choice(LEVELS, (200, 20))])
    with jax.enable_x64(dtype is np.float64), np.errstate(all="ignore"):
        values = values.astype(dtype)
        ranks = np.argsort(np.argsort(-values, kind="stable"))
        found = thin(jnp.asarray(values), k)
        assert found.dtype == dtype
        assert_array_equal(found, np.where(ranks < k, values, 0))


@mark.parametrize("lost", [jnp.nan, -jnp.nan])
def test_a_nan_of_any_sign_shows(lost):
    found = thin(jnp.array([[1.0, lost, 2.0, 3.0], [lost] * 4]), 1)
    assert_array_equal(jnp.isnan(found), [[0, 1, 0, 0], [1, 0, 0, 0]])


def test_the_gradient_passes_through_what_is_kept_and_a_batch_axis_may_be_mapped():
    """A zero is never kept, even where nothing else is left to keep."""
    values = jnp.array([[3.0, 1, 2, 0], [0, 5, 0, 0], [1, 1, 1, 0.5]])
    slope = jax.vmap(jax.grad(lambda row: keep_largest(row[None], 2).sum()))(values)
    assert_array_equal(slope, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]])

"""Atoms of families: counts by hand, and worlds of one family in which the truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.learners import families
from sae_gap.learners.families import Company
from sae_gap.learners.online import OnlineDictionary
from sae_gap.types import Split

CHILDREN = 4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def company_of(codes):
    """The counts of dense codes, by matrix products."""
    codes = np.asarray(codes)
    on = (codes > 0).astype(np.float32)
    return Company(jnp.asarray(on.T @ on), jnp.asarray(codes.T.astype(np.float32) @ on))


def by_slot(codes, slots):
    places = np.argsort(-codes, axis=1)[:, :slots]
    return jnp.asarray(places), jnp.asarray(np.take_along_axis(codes, places, axis=1))


def cosines(dictionary, truth):
    """The cosine of each true atom with the nearest of the dictionary."""
    return np.max(np.abs(np.asarray(truth).T @ np.asarray(dictionary)), axis=1)


def test_counts_are_those_of_dense_codes(rng):
    codes = np.where(rng.random((50, 12)) < 0.3, rng.random((50, 12)), 0).astype(np.float32)
    begun = families.nobody(12, jnp.float32)
    places, values = by_slot(codes, 8)
    assert (codes > 0).sum(axis=1).max() <= 8
    found = families.count(begun, places, values, jnp.asarray(True))
    twice = families.count(found, places, values, jnp.asarray(True))
    wanted = company_of(codes)
    np.testing.assert_allclose(found.together, wanted.together)
    np.testing.assert_allclose(found.amount, wanted.amount, rtol=1e-6)
    np.testing.assert_allclose(twice.amount, 2 * wanted.amount, rtol=1e-6)
    left = families.count(found, places, values, jnp.asarray(False))
    np.testing.assert_array_equal(left.together, found.together)


def test_shares_are_of_the_samples_that_use_the_column():
    together = jnp.array([[10.0, 4.0], [4.0, 5.0]])
    share, uses = families.shares(Company(together, together))
    np.testing.assert_allclose(share, [[0, 0.8], [0.4, 0]], rtol=1e-6)
    np.testing.assert_allclose(uses, [10, 5])


def family(rng, *, alone=0.02, input_dim=64, n=4_000, spare=3):
    """Orthonormal parent and children, atoms of no use beside them, and codes: the parent always, and at most one child."""
    frame = np.linalg.qr(rng.standard_normal((input_dim, 1 + CHILDREN + spare)))[0]
    codes = np.zeros((n, 1 + CHILDREN))
    codes[:, 0] = 5 + 0.5 * rng.standard_normal(n)
    which = rng.integers(0, CHILDREN, n)
    codes[np.arange(n), 1 + which] = codes[:, 0] * (1 + 0.1 * rng.standard_normal(n))
    codes[rng.random(n) < alone, 1:] = 0
    return frame, codes


def test_a_child_leaves_its_parent_and_the_parent_stays(rng):
    frame, codes = family(rng)
    mixed = frame.copy()
    mixed[:, 1] = (frame[:, 1] + 0.25 * frame[:, 0]) / np.hypot(1, 0.25)
    company = company_of(np.pad(codes, ((0, 0), (0, 3))))
    found = families.push(jnp.asarray(mixed, jnp.float32), company, coherent=0.0, included=0.5)
    np.testing.assert_allclose(found[:, 0], frame[:, 0], atol=1e-6)
    before, after = mixed[:, 0] @ mixed[:, 1], np.asarray(found)[:, 0] @ np.asarray(found)[:, 1]
    # d ← unit(d - w c p) with c = d · p: the coherence falls to c (1 - w) / sqrt(1 - (2 w - w²) c²).
    np.testing.assert_allclose(after, before * 0.5 / np.sqrt(1 - 0.75 * before**2), rtol=1e-4)


def test_coherent_pairs_part_and_the_more_central_atom_stays(rng):
    frame = np.linalg.qr(rng.standard_normal((400, 5)))[0]
    merged = np.concatenate([frame[:, :1], frame[:, :1] + frame[:, 1:]], axis=1)
    merged = merged / np.linalg.norm(merged, axis=0)
    nobody = families.nobody(5, jnp.float32)
    found = np.asarray(families.push(jnp.asarray(merged, jnp.float32), nobody, coherent=0.4, included=0.0))
    np.testing.assert_allclose(found[:, 0], frame[:, 0], atol=1e-6)
    assert (found[:, 0] @ found[:, 1:] < merged[:, 0] @ merged[:, 1:] - 0.1).all()
    # Coherences that chance makes are left alone: four standard deviations, but at least .3.
    weak = merged.copy()
    weak[:, 1:] = frame[:, 1:] + 0.25 * frame[:, :1]
    weak = weak / np.linalg.norm(weak, axis=0)
    np.testing.assert_allclose(
        families.push(jnp.asarray(weak, jnp.float32), nobody, coherent=0.4, included=0.0), weak, atol=1e-6
    )


def test_an_atom_that_is_on_in_most_uses_of_one_that_includes_it_becomes_its_base(rng):
    frame = np.linalg.qr(rng.standard_normal((32, 2)))[0]
    base, child = frame.T
    v, u = (base + child) / np.sqrt(2), (base - 0.6 * child) / np.hypot(1, 0.6)
    n = 1_000
    signals = 5 * base + np.where(np.arange(n) < 300, 5.0, 0)[:, None] * child
    codes = np.linalg.solve(np.stack([v, u]) @ np.stack([v, u]).T, np.stack([v, u]) @ signals.T).T
    codes[np.abs(codes) < 1e-9] = 0
    assert (codes >= 0).all()
    found, company = families.rearrange(jnp.asarray(np.stack([v, u], axis=1), jnp.float32), company_of(codes))
    np.testing.assert_allclose(np.abs(found.T @ frame), [[0, 1], [1, 0]], atol=1e-5)
    # Both have moved.
    assert not np.asarray(company.together).any()


def test_a_parent_that_is_one_of_its_children_as_well_is_split(rng):
    frame, codes = family(rng)
    truth = frame[:, : 1 + CHILDREN]
    v = (truth[:, 0] + truth[:, 1]) / np.sqrt(2)
    rays = truth[:, :1] + truth[:, 2:]
    others = rays - v[:, None] * (v @ rays)
    used = np.concatenate([v[:, None], others / np.linalg.norm(others, axis=0)], axis=1)
    dictionary = np.concatenate([used, frame[:, 1 + CHILDREN :]], axis=1)
    signals = codes @ truth.T
    coded = np.maximum(signals @ np.linalg.pinv(used).T, 0)
    coded[coded < 1] = 0
    company = company_of(np.pad(coded, ((0, 0), (0, 3))))
    found, _ = families.rearrange(jnp.asarray(dictionary, jnp.float32), company)
    assert cosines(dictionary, truth).min() < 0.72
    # Rays p + c_k alone say p up to the mean of the children: cosines sqrt(4 / 5) and sqrt(3 / 4).
    np.testing.assert_allclose(cosines(found, truth), [0.8**0.5, *[0.75**0.5] * CHILDREN], atol=0.03)


@pytest.mark.parametrize("alone", [0.02, 0.4])
def test_a_family_that_is_right_is_left_alone(rng, alone):
    frame, codes = family(rng, alone=alone)
    company = company_of(np.pad(codes, ((0, 0), (0, 3))))
    dictionary = jnp.asarray(frame, jnp.float32)
    found, kept = families.rearrange(dictionary, company)
    np.testing.assert_array_equal(found, dictionary)
    np.testing.assert_array_equal(kept.together, company.together)
    pushed = families.push(dictionary, company, coherent=0.4, included=0.5)
    np.testing.assert_allclose(pushed, frame, atol=1e-6)


def test_loadings_are_those_of_one_common_factor(rng):
    loading = rng.uniform(0.4, 0.9, 6)
    products = np.outer(loading, loading)
    np.fill_diagonal(products, 1)
    exists = jnp.array([True, True, False, True, True, False])
    found = families._loadings(jnp.asarray(products, jnp.float32), exists)
    np.testing.assert_allclose(np.asarray(found)[np.asarray(exists)], loading[np.asarray(exists)], rtol=1e-5)


def test_rounds_that_look_are_every_third_between_the_first_tenth_and_the_end():
    due = [bool(families.is_due(jnp.asarray(turn), 100)) for turn in range(100)]
    assert [turn for turn in range(100) if due[turn]] == list(range(10, 96, 3))


@pytest.mark.parametrize("options", [{"families": 1}, {"families": True, "nonneg": False}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises((ValueError, TypeError), match="families"):
        OnlineDictionary(**options)


def test_more_latents_than_counts_have_room_for_are_refused():
    with pytest.raises(ValueError, match="at most 16,384 latents"):
        OnlineDictionary(families=True).init(Split(jnp.ones((10, 4))), num_latents=16_385, key=jax.random.key(0))


def test_a_learner_that_tells_families_apart_keeps_parents_and_children(rng):
    """Four families in which a child is nearly always on beside its parent, at a ratio that hardly varies."""
    frame = np.linalg.qr(rng.standard_normal((40, 20)))[0]
    n = 4_000
    codes = np.zeros((n, 20), np.float32)
    for first in range(0, 20, 5):
        on = rng.random(n) < 0.35
        parent = np.where(on, rng.uniform(0.7, 1.3, n), 0)
        child = np.where(rng.random(n) < 0.9, rng.integers(1, 5, n), 0)
        codes[:, first] = parent
        chosen = child > 0
        codes[np.arange(n)[chosen], first + child[chosen]] = (parent * rng.uniform(0.7, 1.3, n))[chosen]
    signals = Split(jnp.asarray(codes @ frame.T, jnp.float32))
    found = {}
    for families_too in (False, True):
        learner = OnlineDictionary(visits=40, families=families_too, num_steps=50)
        state = learner.init(signals, num_latents=20, key=jax.random.key(1))
        state = jax.lax.fori_loop(0, 50, lambda _, state, learner=learner: learner.step(signals, state), state)
        found[families_too] = cosines(state.dictionary, frame)
    assert found[True].mean() > found[False].mean() + 0.05

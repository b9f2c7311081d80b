"""Counts of which atoms are used together."""

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.learners.online import cooccurrence
from tests.learners.online.family.examples import WIDTH, of_tables


def test_counts_are_those_of_dense_codes():
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((50, 12)) < 0.3, rng.random((50, 12)), 0).astype(np.float32)
    places = np.argsort(-codes, axis=1)[:, :8]
    assert (codes > 0).sum(axis=1).max() <= 8
    by_slot = jnp.asarray(places), jnp.asarray(np.take_along_axis(codes, places, axis=1))
    add_samples = jax.jit(cooccurrence.add_samples)
    once = add_samples(cooccurrence.empty_counts(12, jnp.float32), *by_slot)
    twice = add_samples(once, *by_slot)
    on = (codes > 0).astype(np.float32)
    for counts, times in ((once, 1), (twice, 2)):
        np.testing.assert_allclose(counts.together, times * (on.T @ on))
        np.testing.assert_allclose(counts.products, times * (codes.T @ codes), rtol=1e-5)
        np.testing.assert_allclose(counts.sums, times * codes.sum(axis=0), rtol=1e-5)
    left, kept = cooccurrence.drop_atoms(once, jnp.arange(12) == 3), np.arange(12) != 3
    np.testing.assert_array_equal(left.products, once.products * kept * kept[:, None])
    np.testing.assert_array_equal(left.together, once.together * kept * kept[:, None])
    np.testing.assert_array_equal(left.sums, once.sums * kept)


def test_a_conditional_share_is_of_the_samples_that_use_the_column():
    counts = cooccurrence.empty_counts(2, jnp.float32)._replace(
        together=jnp.array([[10.0, 4.0], [4.0, 5.0]])
    )
    np.testing.assert_allclose(counts.given, [[1, 0.8], [0.4, 1]], rtol=1e-6)
    np.testing.assert_allclose(counts.uses, [10, 5])


def test_what_is_nearly_always_on_includes_nothing_by_that_alone():
    """Of 100 samples; beside what is on in 90 of them are 45 of 50 uses by chance, beside what is
    on in 50 hardly.
    """
    found = cooccurrence.includes(of_tables([[90, 45, 0], [45, 50, 49], [0, 49, 50]], number=100))
    assert found[:3, :3].tolist() == [
        [True, False, False],
        [False, True, True],
        [False, True, True],
    ]


def test_a_parent_is_the_least_used_of_those_that_include_an_atom_and_are_used_more():
    table = [[300, 200, 100], [200, 200, 100], [100, 100, 100]]
    for uses, parent in ((101, WIDTH), (103, 0)):
        found = cooccurrence.parents(of_tables([[uses, 100], [100, 100]]))
        assert found[:2].tolist() == [WIDTH, parent]
    assert cooccurrence.parents(of_tables(table))[:3].tolist() == [WIDTH, 0, 1]

"""Counts of which atoms are used together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.learners.online import cooccurrence
from tests.learners.online.examples import WIDTH, of_codes, of_tables


@functools.partial(jax.jit, static_argnums=2)
def counted(places, codes, num_latents, number):
    uses = cooccurrence.uses_of(places, codes, num_latents)
    return uses, cooccurrence.count(uses, jnp.asarray(places), jnp.asarray(codes), number)


@pytest.mark.parametrize(("num_latents", "slots"), [(12, 8), (600, 40)])
def test_counts_are_those_of_dense_codes(num_latents, slots):
    """Of more atoms than are counted at once, in more samples, with free slots of any place."""
    rng = np.random.default_rng(0)
    rate = np.where(np.arange(num_latents) % 30 == 0, 0.3, 3 / num_latents)
    on = rng.random((900, num_latents)) < rate
    # One atom is nearly always on beside another, and one beside it in less than two fifths.
    on[:, 3] |= on[:, 0] & (rng.random(900) < 0.9)
    on[:, 5] = on[:, 0] & (rng.random(900) < 0.3)
    on &= np.cumsum(on, axis=1) <= slots - 1
    codes = np.where(on, 0.5 + rng.random(on.shape), 0).astype(np.float32)
    places = np.argsort(-codes, axis=1)[:, rng.permutation(slots)]
    by_slot = np.take_along_axis(codes, places, axis=1)
    places = np.where(by_slot > 0, places, rng.integers(num_latents + 9, size=places.shape))
    uses, counts = counted(places, by_slot, num_latents, 1_000)
    wanted = of_codes(codes, 1_000)
    assert (np.asarray(wanted.partners) < num_latents).sum() > 5
    for name, found in counts._asdict().items():
        given = np.asarray(getattr(wanted, name))
        if given.ndim == 2:
            assert (given[:, slots:] == given[-1, -1]).all()
            given = given[:, :slots]
        np.testing.assert_allclose(found, given, rtol=1e-5, err_msg=name)
    rows = jnp.asarray(rng.standard_normal((num_latents, 7)), jnp.float32)
    found = cooccurrence.energy_product(uses, rows, len(codes))
    np.testing.assert_allclose(found, codes.T @ (codes @ rows), rtol=1e-4, atol=1e-3)


def test_of_too_many_partners_those_of_the_largest_shares_are_kept():
    """Beside atom 0 three of five others are on, in ten samples of four slots."""
    others = np.repeat(np.arange(1, 6), [5, 5, 6, 7, 7]).reshape(3, 10).T
    places = np.pad(others, ((0, 0), (1, 0)))
    _, counts = counted(places, np.ones(places.shape, np.float32), 6, 10)
    assert counts.partners[0].tolist() == [1, 3, 4, 5]
    assert counts.together[0].tolist() == [5, 6, 7, 7]


def test_dropped_atoms_have_no_counts_and_are_no_partners():
    counts = of_tables([[9, 6, 5], [6, 7, 4], [5, 4, 6]])
    left = cooccurrence.drop_atoms(counts, jnp.arange(WIDTH) == 1)
    assert left.partners[:3, :2].tolist() == [[WIDTH, 2], [WIDTH] * 2, [0, WIDTH]]
    for table in (left.together, left.products):
        assert table[:3, :2].tolist() == [[0, 5], [0, 0], [5, 0]]
    for part in (left.uses, left.sums, left.squares):
        assert part[:3].tolist() == [9, 0, 6]


def test_shares_and_mean_codes_are_of_the_samples_that_use_the_row():
    counts = of_codes(np.array([[1, 2], [3, 4], [0, 5], [0, 6.0]]), 4)
    np.testing.assert_allclose(counts.given[:, 0], [1, 0.5])
    np.testing.assert_allclose(counts.size, [10 / 4, 81 / 17])
    # That of the second atom beside the first, and the other way round, weighted by the other.
    np.testing.assert_allclose(counts.beside[:, 0], [14 / 4, 14 / 17 * 2])


def test_what_is_nearly_always_on_includes_nothing_by_that_alone():
    """Of 100 samples; beside what is on in 90 of them are 45 of 50 uses by chance, beside what is
    on in 50 hardly.
    """
    counts = of_tables([[90, 45, 0], [45, 50, 49], [0, 49, 50]], number=100)
    includes = np.asarray(cooccurrence.includes(counts))
    assert [counts.partners[row][includes[row]].tolist() for row in range(3)] == [[], [2], [1]]


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        # The least used of those that include an atom, and are used more.
        ([[300, 200, 100], [200, 200, 100], [100, 100, 100]], [WIDTH, 0, 1]),
        ([[101, 100], [100, 100]], [WIDTH, WIDTH]),
        ([[103, 100], [100, 100]], [WIDTH, 0]),
    ],
)
def test_the_parent_of_an_atom(table, wanted):
    assert cooccurrence.parents(of_tables(table))[: len(table)].tolist() == wanted

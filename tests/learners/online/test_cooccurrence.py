"""Who is used with whom: counts by hand, and families in which the truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.learners.online import cooccurrence
from sae_gap.learners.online.cooccurrence import Company

CHILDREN = 4


# Compiled once for each shape.
@jax.jit
def rearrange(dictionary, company):
    """Idle is what these counts say."""
    found, moved = cooccurrence.rearrange(dictionary, company, cooccurrence.idle_energy(jnp.diagonal(company.products)))
    return found, cooccurrence.forget(company, moved), moved


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def company_of(codes):
    """The counts of dense codes, by matrix products, among four times as many samples, of which the others use none of them."""
    codes = np.asarray(codes)
    on = (codes > 0).astype(np.float32)
    products = jnp.asarray((codes.T @ codes).astype(np.float32))
    number = jnp.asarray(4 * len(codes), jnp.float32)
    return Company(jnp.asarray(on.T @ on), products, jnp.asarray(codes.sum(axis=0), jnp.float32), number)


def counted(together, number=1_000):
    """The counts of codes that are all 1."""
    table = jnp.asarray(together, jnp.float32)
    return Company(table, table, jnp.diagonal(table), jnp.asarray(number, jnp.float32))


def by_slot(codes, slots):
    places = np.argsort(-codes, axis=1)[:, :slots]
    return jnp.asarray(places), jnp.asarray(np.take_along_axis(codes, places, axis=1))


def cosines(dictionary, truth):
    """The cosine of each true atom with the nearest of the dictionary."""
    return np.max(np.abs(np.asarray(truth).T @ np.asarray(dictionary)), axis=1)


def test_counts_are_those_of_dense_codes(rng):
    codes = np.where(rng.random((50, 12)) < 0.3, rng.random((50, 12)), 0).astype(np.float32)
    places, values = by_slot(codes, 8)
    assert (codes > 0).sum(axis=1).max() <= 8
    found = cooccurrence.count(cooccurrence.nobody(12, jnp.float32), places, values)
    twice = cooccurrence.count(found, places, values)
    wanted = company_of(codes)
    np.testing.assert_allclose(found.together, wanted.together)
    np.testing.assert_allclose(found.products, wanted.products, rtol=1e-5)
    np.testing.assert_allclose(found.sums, wanted.sums, rtol=1e-5)
    np.testing.assert_allclose(twice.products, 2 * wanted.products, rtol=1e-5)
    left = cooccurrence.forget(found, jnp.arange(12) == 3)
    kept = np.arange(12) != 3
    np.testing.assert_array_equal(left.products, found.products * kept * kept[:, None])
    np.testing.assert_array_equal(left.together, found.together * kept * kept[:, None])
    np.testing.assert_array_equal(left.sums, found.sums * kept)


def test_shares_are_of_the_samples_that_use_the_column():
    together = jnp.array([[10.0, 4.0], [4.0, 5.0]])
    share, uses = cooccurrence.shares(counted(together))
    np.testing.assert_allclose(share, [[0, 0.8], [0.4, 0]], rtol=1e-6)
    np.testing.assert_allclose(uses, [10, 5])


def unit(atoms):
    return atoms / np.linalg.norm(atoms, axis=0)


def family(rng, *, alone=0.02, input_dim=64, n=4_000, spare=3):
    """Orthonormal parent and children, atoms of no use beside them, and codes: the parent always, and at most one child."""
    frame = np.linalg.qr(rng.standard_normal((input_dim, 1 + CHILDREN + spare)))[0]
    codes = np.zeros((n, 1 + CHILDREN))
    codes[:, 0] = 5 + 0.5 * rng.standard_normal(n)
    which = rng.integers(0, CHILDREN, n)
    codes[np.arange(n), 1 + which] = codes[:, 0] * (1 + 0.1 * rng.standard_normal(n))
    codes[rng.random(n) < alone, 1:] = 0
    return frame, codes


@pytest.mark.parametrize("part", [0.25, -0.25])
def test_a_child_leaves_its_parent_and_the_parent_stays(rng, part):
    frame, codes = family(rng)
    mixed = frame.copy()
    mixed[:, 1] = (frame[:, 1] + part * frame[:, 0]) / np.hypot(1, part)
    company = company_of(np.pad(codes, ((0, 0), (0, 3))))
    found = cooccurrence.push(jnp.asarray(mixed, jnp.float32), company, 0.5)
    np.testing.assert_allclose(found[:, 0], frame[:, 0], atol=1e-6)
    before, after = mixed[:, 0] @ mixed[:, 1], np.asarray(found)[:, 0] @ np.asarray(found)[:, 1]
    # d ← unit(d - w c p) with c = d · p: the coherence falls to c (1 - w) / sqrt(1 - (2 w - w²) c²).
    np.testing.assert_allclose(after, before * 0.5 / np.sqrt(1 - 0.75 * before**2), rtol=1e-4)


def test_what_many_that_include_an_atom_share_is_taken_out_once(rng):
    """Five atoms of cosine .7 with each other, each at .5 with the one that they include: at most all of it goes."""
    frame = np.linalg.qr(rng.standard_normal((64, 7)))[0]
    above = np.sqrt(0.7) * frame[:, :1] + np.sqrt(0.3) * frame[:, 1:6]
    # Σ_i d_i at a cosine of .5 with each of them: what all share has a length of sqrt(.7 + .3 / 5).
    mean = above.mean(axis=1) / np.sqrt(0.76)
    child = 0.5 / np.sqrt(0.76) * mean + np.sqrt(1 - 0.25 / 0.76) * frame[:, 6]
    dictionary = jnp.asarray(np.concatenate([above, child[:, None]], axis=1), jnp.float32)
    np.testing.assert_allclose(dictionary.T[:5] @ dictionary[:, 5], 0.5, atol=1e-5)
    together = np.full((6, 6), 50.0)
    together[np.diag_indices(6)] = [100] * 5 + [50]
    together[:5, :5] = np.diag([100.0] * 5)
    found = cooccurrence.push(dictionary, counted(together), 0.5)
    np.testing.assert_allclose(found.T[:5] @ found[:, 5], 0, atol=1e-5)


def test_dimensions_that_padding_adds_change_no_bar(rng):
    frame = np.linalg.qr(rng.standard_normal((30, 2)))[0]
    # Of a cosine that chance makes in 30 dimensions and not in 400.
    pair = np.pad(np.stack([frame[:, 0], 0.12 * frame[:, 0] + np.sqrt(1 - 0.12**2) * frame[:, 1]], axis=1), ((0, 370), (0, 0)))
    found = cooccurrence.push(jnp.asarray(pair, jnp.float32), counted([[100, 50], [50, 50]]), 0.5)
    np.testing.assert_allclose(found, pair, atol=1e-6)
    # Members of cosine .4, which is coherent in 400 dimensions and not in 64.
    frame = np.linalg.qr(rng.standard_normal((64, 6)))[0]
    members = np.pad(np.sqrt(0.4) * frame[:, :1] + np.sqrt(0.6) * frame[:, 1:6], ((0, 336), (0, 1)))
    members[0, 5] = 1
    for dictionary, moves in ((members, False), (members + 1e-6, True)):
        atoms = jnp.asarray(dictionary / np.linalg.norm(dictionary, axis=0), jnp.float32)
        assert rearrange(atoms, counted(np.diag([100.0] * 5 + [0])))[2].any() == moves


def test_of_two_that_are_used_as_often_neither_moves(rng):
    frame = np.linalg.qr(rng.standard_normal((64, 2)))[0]
    pair = jnp.asarray(np.stack([frame[:, 0], (frame[:, 0] + frame[:, 1]) / np.sqrt(2)], axis=1), jnp.float32)
    np.testing.assert_allclose(cooccurrence.push(pair, counted([[100, 95], [95, 100]]), 0.5), pair, atol=1e-6)
    assert np.abs(cooccurrence.push(pair, counted([[101, 95], [95, 100]]), 0.5) - pair).max() > 0.1


def test_what_is_used_hardly_more_often_is_no_parent():
    for uses, parent in ((101, -1), (103, 0)):
        assert cooccurrence._parents(counted([[uses, 100], [100, 100]])).tolist() == [-1, parent]


def test_of_two_that_include_each_other_the_less_used_moves_and_one_that_was_hardly_used_stays(rng):
    frame = np.linalg.qr(rng.standard_normal((64, 4)))[0]
    mixed = frame.copy()
    mixed[:, 1] = (frame[:, 1] + 0.5 * frame[:, 0]) / np.hypot(1, 0.5)
    mixed[:, 3] = (frame[:, 3] + 0.5 * frame[:, 2]) / np.hypot(1, 0.5)
    together = np.zeros((4, 4), np.float32)
    # Atoms 0 and 1 are nearly always on together; 3 was used five times, always beside 2.
    together[:2, :2] = [[100, 90], [90, 95]]
    together[2:, 2:] = [[100, 5], [5, 5]]
    found = cooccurrence.push(jnp.asarray(mixed, jnp.float32), counted(together), 0.5)
    moved = np.abs(np.asarray(found) - mixed).max(axis=0) > 1e-6
    assert moved.tolist() == [False, True, False, False]


def test_an_atom_that_is_on_in_most_uses_of_one_that_includes_it_becomes_its_base(rng):
    frame = np.linalg.qr(rng.standard_normal((32, 3)))[0]
    base, child, other = frame.T
    v, u = (base + child) / np.sqrt(2), (base - 0.6 * child) / np.hypot(1, 0.6)
    n = 1_000
    signals = 5 * base + np.where(np.arange(n) < 300, 5.0, 0)[:, None] * child
    codes = np.linalg.solve(np.stack([v, u]) @ np.stack([v, u]).T, np.stack([v, u]) @ signals.T).T
    codes[np.abs(codes) < 1e-9] = 0
    assert (codes >= 0).all()
    # A third atom, on in every other sample, has nothing to do with them.
    codes = np.concatenate([codes, 4.0 * (np.arange(n)[:, None] % 2)], axis=1)
    found, company, _ = rearrange(jnp.asarray(np.stack([v, u, other], axis=1), jnp.float32), company_of(codes))
    np.testing.assert_allclose(np.abs(found.T @ frame), [[0, 1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-5)
    # Both have moved, so that only what the third is by itself is known of the new atoms.
    np.testing.assert_array_equal(company.together, np.diag([0, 0, n / 2]))


def test_bases_are_exchanged_in_pairs(rng):
    """By hand: two atoms that include one, two that include each other alike, and two that are nearly the same."""
    frame = np.linalg.qr(rng.standard_normal((64, 8)))[0]
    atoms = frame.copy()
    atoms[:, 6] = 0.01 * frame[:, 6] + np.sqrt(1 - 1e-4) * frame[:, 5]
    together = np.zeros((8, 8), np.float32)
    together[:3, :3] = [[100, 90, 90], [90, 90, 90], [90, 90, 95]]
    together[3:5, 3:5] = [[100, 90], [90, 100]]
    together[5:7, 5:7] = [[100, 80], [80, 80]]
    found, company, moved = rearrange(jnp.asarray(atoms, jnp.float32), counted(together))
    assert moved.tolist() == [False, True, True, True, True, False, False, False]
    wanted = atoms.copy()
    # Of 0 and 2 the second is more often with 1. The base is the mean signal where u is on, d_u (ZᵀZ)_uu + d_v (ZᵀZ)_uv.
    for u, v in ((1, 2), (4, 3)):
        base = together[u, u] * atoms[:, u] + together[u, v] * atoms[:, v]
        wanted[:, u] = base / np.linalg.norm(base)
        left = atoms[:, v] - wanted[:, u] * (wanted[:, u] @ atoms[:, v])
        wanted[:, v] = left / np.linalg.norm(left)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    kept = np.array([1, 0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(company.together, together * kept * kept[:, None])


@pytest.mark.parametrize("above", [False, True])
def test_a_parent_that_is_one_of_its_children_as_well_is_split(rng, above):
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
    coded = np.pad(coded, ((0, 0), (0, 3)))
    if above:
        # What is on beside them and as often without includes the family as well.
        coded = np.pad(coded, ((0, len(coded)), (0, 0)))
        coded[:, -1] = 4
    found, _, _ = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(coded))
    assert cosines(dictionary, truth).min() < 0.72
    # Rays p + c_k alone say p up to the mean of the children: cosines sqrt(4 / 5) and sqrt(3 / 4).
    np.testing.assert_allclose(cosines(found, truth), [0.8**0.5, *[0.75**0.5] * CHILDREN], atol=0.03)


@pytest.mark.parametrize("alone", [0.02, 0.4])
def test_a_family_that_is_right_is_left_alone(rng, alone):
    frame, codes = family(rng, alone=alone)
    company = company_of(np.pad(codes, ((0, 0), (0, 3))))
    dictionary = jnp.asarray(frame, jnp.float32)
    found, kept, _ = rearrange(dictionary, company)
    np.testing.assert_array_equal(found, dictionary)
    np.testing.assert_array_equal(kept.together, company.together)
    np.testing.assert_allclose(cooccurrence.push(dictionary, company, 0.5), frame, atol=1e-6)


@pytest.mark.parametrize("number", [9, 20])
def test_of_many_children_as_many_as_there_is_room_for_are_looked_at(rng, number):
    """A parent, the last atom, with many children beside the one that it is as well."""
    frame = np.linalg.qr(rng.standard_normal((64, 2 + number)))[0]
    parent, first, rest = frame[:, :1], frame[:, 1:2], frame[:, 2:]
    v = (parent + first) / np.sqrt(2)
    others = parent + rest - v * (v.T @ (parent + rest))
    dictionary = np.concatenate([others / np.linalg.norm(others, axis=0), v], axis=1)
    which = np.arange(6_000) % (1 + number)
    signals = 5 * (parent + frame[:, 1 + which]).T
    coded = np.maximum(signals @ np.linalg.pinv(dictionary).T, 0)
    coded[coded < 1] = 0
    found, _, _ = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(coded))
    moved = np.abs(np.asarray(found) - dictionary).max(axis=0) > 1e-6
    assert np.flatnonzero(moved).tolist() == [*range(8), number]
    assert abs(parent[:, 0] @ np.asarray(found)[:, -1]) > 0.9


def test_children_that_are_on_together_are_not_split_from_their_parent(rng):
    """Alike as where the parent is one of them, but each on in about half of the uses of every other."""
    frame, codes = family(rng)
    v = (frame[:, 0] + frame[:, 1]) / np.sqrt(2)
    others = frame[:, :1] + frame[:, 2:5]
    others = others - v[:, None] * (v @ others)
    dictionary = np.concatenate([v[:, None], others / np.linalg.norm(others, axis=0), frame[:, 4:]], axis=1)[:, :8]
    dictionary[:, 4:] = frame[:, 4:]
    assert dictionary[:, 1] @ dictionary[:, 2] > 2 * cooccurrence.SHARED
    coded = np.zeros((len(codes), 8))
    coded[:, 0] = codes[:, 0]
    coded[:, 1:4] = 5 * (rng.random((len(codes), 3)) < 0.55)
    found, _, _ = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(coded))
    np.testing.assert_array_equal(found, jnp.asarray(dictionary, jnp.float32))


@pytest.mark.parametrize(
    ("pairs", "cosine", "beside", "moved"),
    [
        ([(1, 2), (3, 4)], 0.2, 0.5, []),
        ([(1, 2)], 0.09, 0.5, []),
        ([(1, 2)], 0.3, 0.9, []),
        ([(1, 2)], 0.3, 0.5, [0, 1, 2]),
    ],
)
def test_children_are_alike_and_beside_smaller_codes_of_a_parent_that_is_split(rng, pairs, cosine, beside, moved):
    """Two pairs of which the mean is below .1, one below it, one beside which the parent has nearly its codes, and one."""
    frame, codes = family(rng, alone=0.4)
    dictionary = frame.copy()
    for one, other in pairs:
        dictionary[:, other] = cosine * frame[:, one] + np.sqrt(1 - cosine**2) * frame[:, other]
    codes[np.any(codes[:, 1:] > 0, axis=1), 0] *= beside
    found, _, which = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(np.pad(codes, ((0, 0), (0, 3)))))
    distance = np.abs(np.asarray(found) - dictionary).max(axis=0)
    assert [atom for atom in range(5) if distance[atom] > 1e-6] == moved
    assert np.flatnonzero(which)[: len(moved)].tolist() == moved


def test_a_parent_that_none_is_seen_without_a_child_gets_an_atom(rng):
    """Four atoms p + c_k and none of p; an idle atom takes it, and the others keep what is their own."""
    frame, codes = family(rng, alone=0, input_dim=200)
    weights = np.array([1.0, 0.9, 0.8, 1.1])
    rays = frame[:, :1] * weights + frame[:, 1 : 1 + CHILDREN]
    lengths = np.linalg.norm(rays, axis=0)
    # The first column, and the last, are of no use; the others beside the family are.
    dictionary = np.concatenate([frame[:, 5:6], rays / lengths, frame[:, 6:8]], axis=1)
    coded = np.zeros((len(codes), 7))
    coded[:, 1:5] = codes[:, 1:5] * lengths
    coded[:, 5] = 4 * (rng.random(len(codes)) < 0.3)
    found, company, moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(coded))
    assert moved.tolist() == [True, True, True, True, True, False, False]
    # The rays span p but for the mean of the children: with weights a_k the combination that has these products with them.
    gram = rays.T @ rays / np.outer(lengths, lengths)
    parent = (rays / lengths) @ np.linalg.solve(gram + 0.01 * np.eye(4), weights / lengths)
    parent /= np.linalg.norm(parent)
    np.testing.assert_allclose(found[:, 0], parent, atol=2e-3)
    assert parent @ frame[:, 0] > 0.85
    left = rays - np.outer(parent, parent @ rays)
    np.testing.assert_allclose(found[:, 1:5], left / np.linalg.norm(left, axis=0), atol=2e-3)
    np.testing.assert_array_equal(np.diag(company.together) > 0, [False] * 5 + [True, False])


def test_a_parent_that_has_an_atom_keeps_it_and_one_without_a_free_atom_waits(rng):
    frame, codes = family(rng, alone=0, input_dim=200)
    rays = (frame[:, :1] + frame[:, 1 : 1 + CHILDREN]) / np.sqrt(2)
    # The mean of the rays is the parent nearly, whose atom is used, and never beside its children.
    there = unit(rays.sum(axis=1, keepdims=True) + 0.2 * frame[:, 5:6])
    other = frame[:, 6:8]
    coded = np.zeros((len(codes), 7))
    coded[:, 1:5] = codes[:, 1:5] * np.sqrt(2)
    coded[:, 5:] = 4 * (rng.random((len(codes), 2)) < 0.3)
    alone = np.pad(coded, ((0, 500), (0, 0)))
    alone[-500:, 0] = 4
    for first, used, moves in ((there, alone, 5), (frame[:, 5:6], alone, 0)):
        dictionary = np.concatenate([first, rays, other], axis=1)
        found, _, moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(used))
        assert np.flatnonzero(moved).tolist() == list(range(moves))
    np.testing.assert_array_equal(found, jnp.asarray(dictionary, jnp.float32))


@pytest.mark.parametrize("uses", [0, 5, 50])
def test_an_idle_atom_of_some_weak_uses_is_free(rng, uses):
    frame, codes = family(rng, alone=0, input_dim=200)
    rays = (frame[:, :1] + frame[:, 1 : 1 + CHILDREN]) / np.sqrt(2)
    coded = np.zeros((len(codes), 5))
    coded[:, 1:] = codes[:, 1:] * np.sqrt(2)
    coded[:uses, 0] = 0.1
    moved = rearrange(jnp.asarray(np.concatenate([frame[:, 5:6], rays], axis=1), jnp.float32), company_of(coded))[2]
    assert moved.all()


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_parent_that_has_an_atom_which_is_on_beside_some_of_its_children_keeps_it(rng, share):
    """On in more than half of their uses it is not used apart from them, and still is the parent."""
    frame, codes = family(rng, alone=0, input_dim=200)
    rays = (frame[:, :1] + frame[:, 1 : 1 + CHILDREN]) / np.sqrt(2)
    parent = unit(rays.sum(axis=1, keepdims=True) + 0.4 * frame[:, 5:6])
    coded = np.zeros((len(codes), 5))
    coded[:, 1:] = codes[:, 1:] * np.sqrt(2)
    coded[:, 0] = 4 * (rng.random(len(codes)) < share)
    moved = rearrange(jnp.asarray(np.concatenate([parent, rays], axis=1), jnp.float32), company_of(coded))[2]
    assert moved.all()


def test_what_is_nearly_always_on_includes_nothing_by_that_alone():
    """Of 100 samples; beside what is on in 90 of them are 45 of 50 uses by chance, beside what is on in 50 hardly."""
    together = [[90, 45, 0], [45, 50, 49], [0, 49, 50]]
    assert cooccurrence.included(counted(together, number=100)).tolist() == [
        [False] * 3,
        [False, False, True],
        [False, True, False],
    ]


def test_what_an_unused_atom_is_the_parent_of_keeps_it_from_another_family(rng):
    """The parent of the first family has an atom without a use, which the second may not take; it takes the next."""
    frame = np.linalg.qr(rng.standard_normal((300, 12)))[0]
    first, second = ((frame[:, a : a + 1] + frame[:, a + 1 : a + 5]) / np.sqrt(2) for a in (0, 5))
    there = unit(first.sum(axis=1, keepdims=True) + 0.1 * frame[:, 10:11])
    codes = np.zeros((4_000, 10))
    codes[np.arange(4_000), np.arange(4_000) % 8] = 5
    for others, moves in ((0, 5), (1, 10)):
        dictionary = np.concatenate([second, first, there, frame[:, 11 : 11 + others]], axis=1)
        new, _, moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(codes[:, : 9 + others]))
        assert int(moved.sum()) == moves
        assert np.asarray(new)[:, 8] @ frame[:, 0] > 0.85


def test_of_a_parent_and_its_own_parent_one_is_split_at_a_time(rng):
    """Atom 0 is always on, and one of 1, 2 and 3, which are alike; beside 1 one of 4, 5 and 6, which are alike."""
    frame = np.linalg.qr(rng.standard_normal((64, 9)))[0]
    dictionary = frame[:, :7].copy()
    for some, shared in (([1, 2, 3], 7), ([4, 5, 6], 8)):
        dictionary[:, some] = unit(frame[:, some] + 0.8 * frame[:, shared : shared + 1])
    codes = np.zeros((1_800, 7))
    codes[:, 0] = 5
    codes[np.arange(1_800), 1 + np.arange(1_800) % 3] = 5
    codes[np.arange(0, 1_800, 3), 4 + np.arange(600) % 3] = 5
    moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(codes))[2]
    assert np.flatnonzero(moved).tolist() == [0, 1, 2, 3]


def test_two_families_take_an_idle_atom_each_and_neither_one_that_is_in_the_other(rng):
    """The common atom of the second is near one of the first, which keeps what is its own."""
    frame = np.linalg.qr(rng.standard_normal((300, 14)))[0]
    first, second = ((frame[:, a : a + 1] + frame[:, a + 1 : a + 5]) / np.sqrt(2) for a in (0, 5))
    codes = np.zeros((4_000, 10))
    codes[np.arange(4_000), np.arange(4_000) % 8] = 5
    for spare, found in ((2, 2), (1, 1)):
        dictionary = np.concatenate([first, second, frame[:, 10 : 10 + spare]], axis=1)
        new, _, moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(codes[:, : 8 + spare]))
        assert (cosines(new, frame[:, [0, 5]]) > 0.85).sum() == found
        assert int(moved.sum()) == 5 * found


def test_apart_are_two_that_are_seldom_together_in_the_uses_of_each():
    share, _ = cooccurrence.shares(counted([[100, 40, 20], [40, 60, 0], [20, 0, 100]]))
    # Of the second's 60 uses 40 are beside the first.
    np.testing.assert_array_equal(cooccurrence._apart(share), [[True, False, True], [False, True, True], [True, True, True]])


def test_two_atoms_do_not_make_a_family_nor_do_atoms_that_are_used_together(rng):
    frame, codes = family(rng, alone=0, input_dim=200)
    rays = (frame[:, :1] + frame[:, 1 : 1 + CHILDREN]) / np.sqrt(2)
    dictionary = np.concatenate([frame[:, 5:6], rays, frame[:, 6:8]], axis=1)
    apart = np.zeros((len(codes), 7))
    apart[:, 1:5] = codes[:, 1:5] * np.sqrt(2)
    pair, together = apart.copy(), apart.copy()
    pair[:, 3:5] = 0
    together[:, 1:5] = 4 * (rng.random((len(codes), 4)) < 0.6)
    for used, moves in ((apart, True), (pair, False), (together, False)):
        moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(used))[2]
        assert bool(moved.any()) == moves


def test_who_follows_one_that_follows_another_is_of_no_family(rng):
    """Three atoms around b, which is alike to c, around which there are more: only those around c are a family."""
    b, c, *rest = np.linalg.qr(rng.standard_normal((400, 12)))[0].T
    b = 0.5 * c + np.sqrt(0.75) * b
    # cos(a, b) = .54, cos(a, a') = .7 and cos(a, c) = .27, which is below COHERENT.
    beside = 0.54 * b + np.sqrt(0.7 - 0.54**2) * (rest[0] - (rest[0] @ b) * b)
    around_b = [beside + np.sqrt(0.3) * rest[1 + each] for each in range(3)]
    around_c = [0.75 * c + np.sqrt(1 - 0.75**2) * rest[4 + each] for each in range(5)]
    dictionary = unit(np.stack([*around_b, b, c, *around_c, rest[9]], axis=1))
    codes = np.zeros((3_000, 11))
    codes[np.arange(3_000), np.arange(3_000) % 10] = 4
    moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(codes))[2]
    assert np.flatnonzero(moved).tolist() == list(range(3, 10))


@pytest.mark.parametrize(("cosine", "moves"), [(0.45, False), (0.66, True)])
def test_atoms_that_are_alike_to_one_of_them_alone_are_no_family_unless_they_are_much_alike(rng, cosine, moves):
    """Four atoms beside one, their common factor: loadings of 1 and four times the cosine, on average .56 or .73."""
    frame = np.linalg.qr(rng.standard_normal((200, 7)))[0]
    around = cosine * frame[:, :1] + np.sqrt(1 - cosine**2) * frame[:, 1:5]
    dictionary = np.concatenate([frame[:, :1], around, frame[:, 5:]], axis=1)
    codes = np.zeros((3_000, 7))
    codes[np.arange(3_000), np.arange(3_000) % 6] = 4
    moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(codes))[2]
    assert bool(moved.any()) == moves


@pytest.mark.parametrize("taken", [None, 0, 1])
def test_bases_of_what_moved_already_are_not_exchanged(rng, taken):
    dictionary = jnp.asarray(np.linalg.qr(rng.standard_normal((32, 3)))[0], jnp.float32)
    company = counted([[100, 90, 0], [90, 95, 0], [0, 0, 50]])
    found, moved = cooccurrence._swap(dictionary, company, jnp.arange(3) == (-1 if taken is None else taken))
    if taken is None:
        assert moved.tolist() == [True, True, False]
    else:
        np.testing.assert_array_equal(found, dictionary)


def test_a_place_goes_to_the_first_that_names_it():
    assert cooccurrence._once(jnp.array([4, 2, 4, 6, 2, 0])).tolist() == [4, 2, 6, 6, 6, 0]


@pytest.mark.parametrize("off", [0.0, 0.13])
def test_a_parent_that_is_off_in_some_samples_has_no_smaller_codes_by_that(rng, off):
    """Children that share something else, beside a parent whose codes are all of one size where it is on."""
    frame, codes = family(rng, alone=0.4, spare=4)
    alike = frame[:, 1 : 1 + CHILDREN] + 0.8 * frame[:, -1:]
    dictionary = np.concatenate([frame[:, :1], alike / np.linalg.norm(alike, axis=0), frame[:, 1 + CHILDREN : -1]], axis=1)
    codes = np.where(codes > 0, 5.0, 0)
    codes[rng.random(len(codes)) < off, 0] = 0
    moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(np.pad(codes, ((0, 0), (0, 3)))))[2]
    assert not moved.any()


@pytest.mark.parametrize("proportional", [True, False])
def test_a_parent_has_its_own_codes_beside_children_that_share_something_else(rng, proportional):
    """Where magnitudes are proportional, and where they vary by themselves from nearly nothing."""
    frame, codes = family(rng, alone=0.4, spare=4)
    alike = frame[:, 1 : 1 + CHILDREN] + 0.8 * frame[:, -1:]
    dictionary = np.concatenate([frame[:, :1], alike / np.linalg.norm(alike, axis=0), frame[:, 1 + CHILDREN : -1]], axis=1)
    if not proportional:
        codes = np.where(codes > 0, rng.exponential(5, codes.shape), 0)
    moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(np.pad(codes, ((0, 0), (0, 3)))))[2]
    assert not moved.any()


def test_idle_atoms_have_a_tenth_of_the_median_energy_of_those_that_have_any():
    squares = jnp.array([0.0, 10.0, 0.0, 0.9, 12.0, 1.1, 0.0, 11.0, 0.0, 0.0])
    wanted = [0, np.inf, 0, 0.9, np.inf, np.inf, 0, np.inf, 0, 0]
    np.testing.assert_allclose(cooccurrence.idle_energy(squares), wanted)
    np.testing.assert_array_equal(cooccurrence.idle_energy(jnp.zeros(3)), jnp.zeros(3))
    assert float(cooccurrence.usual_energy(squares)) == pytest.approx(10)
    assert float(cooccurrence.usual_energy(jnp.zeros(3))) == 0


def test_loadings_are_those_of_one_common_factor(rng):
    loading = rng.uniform(0.4, 0.9, 6)
    products = np.outer(loading, loading)
    np.fill_diagonal(products, 1)
    exists = jnp.array([True, True, False, True, True, False])
    found = cooccurrence._loadings(jnp.asarray(products, jnp.float32), exists)
    np.testing.assert_allclose(np.asarray(found)[np.asarray(exists)], loading[np.asarray(exists)], rtol=1e-5)


def test_chance_coherence_and_atoms_that_are_not_included_are_left(rng):
    frame, codes = family(rng)
    mixed = frame.copy()
    # Below 1 / sqrt(64) = .125, and above it, either way.
    for child, part in ((1, 0.1), (2, 0.2), (3, -0.1), (4, -0.2)):
        mixed[:, child] = (frame[:, child] + part * frame[:, 0]) / np.hypot(1, part)
    company = company_of(np.pad(codes, ((0, 0), (0, 3))))
    moved = np.abs(np.asarray(cooccurrence.push(jnp.asarray(mixed, jnp.float32), company, 0.5)) - mixed).max(axis=0) > 1e-6
    assert moved.tolist() == [False, False, True, False, True] + [False] * 3
    # On in three quarters of the uses of every child, the parent does not include them.
    seldom = codes.copy()
    seldom[rng.random(len(codes)) < 0.25, 0] = 0
    company = company_of(np.pad(seldom, ((0, 0), (0, 3))))
    np.testing.assert_allclose(cooccurrence.push(jnp.asarray(mixed, jnp.float32), company, 0.5), mixed, atol=1e-6)


@pytest.mark.parametrize(("alone", "shared"), [(0.4, 0.4), (0.02, 0.8)])
def test_a_parent_whose_own_ray_is_the_common_one_is_kept_although_its_children_are_alike(rng, alone, shared):
    """Children that share q beside their parent p, where all codes are smaller; p alone in .4 or .02 of its uses."""
    frame, codes = family(rng, alone=alone, spare=4)
    alike = frame[:, 1 : 1 + CHILDREN] + shared * frame[:, -1:]
    dictionary = np.concatenate([frame[:, :1], alike / np.linalg.norm(alike, axis=0), frame[:, 1 + CHILDREN : -1]], axis=1)
    codes[np.any(codes[:, 1:] > 0, axis=1)] *= 0.8
    assert np.abs(dictionary[:, 1] @ dictionary[:, 2]) > cooccurrence.SHARED
    found, _, _ = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(np.pad(codes, ((0, 0), (0, 3)))))
    if alone == 0.4:
        np.testing.assert_array_equal(found, jnp.asarray(dictionary, jnp.float32))
    else:
        # Hardly ever seen by itself, p is known by the rays of its children alone, which are alike.
        common = CHILDREN * dictionary[:, 0] + dictionary[:, 1 : 1 + CHILDREN].sum(axis=1)
        np.testing.assert_allclose(found[:, 0], common / np.linalg.norm(common), atol=0.02)
        # Nor was it one of its children, which would want a free atom.
        np.testing.assert_array_equal(found[:, 1 + CHILDREN :], jnp.asarray(dictionary[:, 1 + CHILDREN :], jnp.float32))


@pytest.mark.parametrize("free", [1, 5, 6, None])
def test_the_child_that_the_parent_was_takes_an_atom_near_it_or_of_small_codes_or_of_no_use(rng, free):
    """The parent's atom is p + c_1, on alone where c_1 is; of the atoms beside the family at most one is free or near c_1."""
    frame, codes = family(rng, n=8_000)
    truth = frame[:, : 1 + CHILDREN]
    v = (truth[:, 0] + truth[:, 1]) / np.sqrt(2)
    rays = truth[:, :1] + truth[:, 2:]
    others = rays - v[:, None] * (v @ rays)
    # What was the place of c_1 has an atom of its own.
    used = np.concatenate([v[:, None], frame[:, 7:8], others / np.linalg.norm(others, axis=0)], axis=1)
    if free == 1:
        used[:, 1] = 0.7 * truth[:, 1] + np.sqrt(0.51) * used[:, 1]
    dictionary = np.concatenate([used, frame[:, 5:7]], axis=1)
    coded = np.zeros((len(codes), 7))
    family_codes = np.linalg.lstsq(used[:, [0, 2, 3, 4]], truth @ codes.T, rcond=None)[0].T
    coded[:, [0, 2, 3, 4]] = np.where(family_codes > 1, family_codes, 0)
    rest = rng.random((len(codes), 3)) < 0.2
    coded[:, [1, 5, 6]] = rest * rng.uniform(4, 6, rest.shape)
    if free == 5:
        coded[:, 5] *= 0.3
    if free == 6:
        coded[:, 6] = 0
        coded[:10, 6] = 5
    found, _, moved = rearrange(jnp.asarray(dictionary, jnp.float32), company_of(coded))
    found = np.asarray(found)
    kept = [atom for atom in (1, 5, 6) if np.allclose(found[:, atom], dictionary[:, atom], atol=1e-6)]
    assert [atom for atom in (1, 5, 6) if not moved[atom]] == kept
    assert kept == [atom for atom in (1, 5, 6) if atom != free]
    if free is not None:
        assert abs(found[:, free] @ truth[:, 1]) > 0.8

"""Counts of which atoms are used together, and the rules of families, each where it acts and just
where it does not.

A family has orthonormal concepts: a parent p and children c_1 … c_4, which are on with p one at a
time. All tests have atoms of one shape, so that their program is compiled once: rows of zeros are
no dimensions, and atoms that a test does not name are orthogonal to all others and used by
themselves.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import mark

from sae_gap.learners import PARTNERS, Cooccurrence
from sae_gap.learners.online import cooccurrence, decorrelation, family

ROWS = 200
WIDTH = 14
# Unrelated directions, the last of which are left to the atoms that fill up.
WIDE, NARROW = (
    np.pad(
        np.linalg.qr(default_rng(0).standard_normal((dim, 28)))[0],
        ((0, ROWS - dim), (0, 0)),
    )
    for dim in (ROWS, 60)
)


@jax.jit
def repair(dictionary, counts):
    idle = family.idle_energy(counts.squares)
    (found, moved), idle = family.repair(dictionary, counts, idle)
    return found, moved, idle


def unit(atoms):
    return atoms / norm(atoms, axis=0)


def filled(atoms):
    spare = (WIDE if atoms[100:].any() else NARROW)[:, atoms.shape[1] - WIDTH :]
    return np.concatenate([atoms, spare], axis=1).astype(np.float32)


def counted(codes, number=None):
    """The counts of dense codes, beside 100 samples for each atom that fills up, among four times
    as many.
    """
    spare = WIDTH - codes.shape[1]
    codes = np.pad(codes, ((0, 100 * spare), (0, spare))).astype(np.float32)
    codes[len(codes) - 100 * spare :, WIDTH - spare :] = 1.5 * np.tile(
        np.eye(spare), (100, 1)
    )
    return of_codes(codes, number or 4 * len(codes))


def of_codes(codes, number):
    on = (codes > 0).astype(np.float32)
    return of_pairs(on.T @ on, codes.T @ codes, codes.sum(axis=0), number)


def of_pairs(together, products, sums, number):
    """The counts of all pairs, in tables of which each column's largest shares are kept."""
    uses = np.diag(together)
    share = np.float32(together / np.maximum(uses, 1)) * (1 - np.eye(len(uses)))
    partners = np.where(np.float32(PARTNERS) < share.T, np.arange(len(uses)), len(uses))
    partners.sort(axis=1)
    tables = (
        np.take_along_axis(np.pad(table.T, ((0, 0), (0, 1))), partners, axis=1)
        for table in (together, products)
    )
    own = uses, sums, np.diag(products), number
    return Cooccurrence(
        jnp.asarray(partners), *(jnp.float32(each) for each in (*tables, *own))
    )


def of_tables(together, number=1_000):
    """The counts of codes that are all 1."""
    table = np.diag([60.0] * WIDTH)
    table[: len(together), : len(together)] = together
    return of_pairs(table, table, np.diag(table), number)


@mark.parametrize(("num_latents", "slots"), [(12, 8), (600, 40)])
def test_counts_are_those_of_dense_codes(num_latents, slots):
    """Of more atoms than are counted at once, in more samples, with free slots of any place."""
    rng = default_rng(0)
    rate = np.where(np.arange(num_latents) % 30 == 0, 0.3, 3 / num_latents)
    on = rng.random((900, num_latents)) < rate
    # One atom is nearly always on beside another, and one beside it in less than two fifths.
    on[:, 3] |= on[:, 0] & (rng.random(900) < 0.9)
    on[:, 5] = on[:, 0] & (rng.random(900) < 0.3)
    on &= np.cumsum(on, axis=1) <= slots - 1
    codes = np.where(on, 0.5 + rng.random(on.shape), 0).astype(np.float32)
    places = np.argsort(-codes, axis=1)[:, rng.permutation(slots)]
    by_slot = np.take_along_axis(codes, places, axis=1)
    places = np.where(
        by_slot > 0, places, rng.integers(num_latents + 9, size=places.shape)
    )
    uses = cooccurrence.uses_of(places, by_slot, num_latents)
    counts = jax.jit(cooccurrence.count)(
        uses, jnp.asarray(places), jnp.asarray(by_slot), 1_000
    )
    wanted = of_codes(codes, 1_000)
    assert (np.asarray(wanted.partners) < num_latents).sum() > 5
    for name, found in counts._asdict().items():
        given = np.asarray(getattr(wanted, name))
        if given.ndim == 2:
            assert (given[:, slots:] == given[-1, -1]).all()
            given = given[:, :slots]
        assert_allclose(found, given, rtol=1e-5, err_msg=name)
    rows = jnp.asarray(rng.standard_normal((num_latents, 7)), jnp.float32)
    found = cooccurrence.energy_product(uses, rows, len(codes))
    assert_allclose(found, codes.T @ (codes @ rows), rtol=1e-4, atol=1e-3)


@mark.parametrize(
    ("table", "number", "wanted"),
    [
        # The least used of those that include an atom, and are used more.
        ([[300, 200, 100], [200, 200, 100], [100, 100, 100]], 1_000, [WIDTH, 0, 1]),
        ([[101, 100], [100, 100]], 1_000, [WIDTH, WIDTH]),
        ([[103, 100], [100, 100]], 1_000, [WIDTH, 0]),
        # What is nearly always on includes nothing by that alone.
        ([[90, 45], [45, 50]], 1_000, [WIDTH, 0]),
        ([[90, 45], [45, 50]], 100, [WIDTH, WIDTH]),
        ([[9, 6], [6, 6]], 1_000, [WIDTH, 0]),
        ([[9, 5], [5, 5]], 1_000, [WIDTH, WIDTH]),
    ],
)
def test_the_parent_of_an_atom(table, number, wanted):
    assert (
        cooccurrence.parents(of_tables(table, number))[: len(table)].tolist() == wanted
    )


@mark.parametrize(("input_dim", "padding"), [(200, 0), (30, 170)])
def test_coherent_atoms_lose_what_they_share_with_more_central_ones(input_dim, padding):
    """At cosines above .3 and above four standard deviations of chance; opposite atoms are not
    coherent, and padding makes none.
    """
    rng = default_rng(0)
    one = unit(rng.standard_normal((input_dim, 25)))
    added = one[:, :12] + 0.8 * one[:, 3:15], one[:, :6] - 0.8 * one[:, 12:18]
    atoms = unit(np.concatenate([one, *added], axis=1))
    gram = atoms.T @ atoms - np.eye(43)
    least = max(0.3, 4 / input_dim**0.5)
    much = np.where(gram > least, gram, 0)
    central = much.sum(axis=0)
    taken = atoms @ np.where(central[:, None] > central, much, 0)
    most = (atoms * taken).sum(axis=0) / np.maximum((taken**2).sum(axis=0), 1e-12)
    # Some are just below and some are opposite.
    assert ((gram > least - 0.1) & (gram < least)).any() and (gram < -0.3).any()
    wanted = unit(atoms - np.minimum(0.5, most) * taken)
    assert np.abs(wanted - atoms).max() > 0.01
    given = jnp.pad(jnp.float32(atoms), ((0, padding), (0, 0)))
    found = decorrelation.decorrelate_atoms(given)
    assert_allclose(found[:input_dim], wanted, atol=2e-6)


# Seven pairs in 60 dimensions, where chance makes .13: uses of both, of the first, of the second,
# their cosine, and whether the second moves.
PAIRS = [
    (50, 100, 50, 0.25, True),
    (50, 100, 50, -0.25, True),
    (50, 100, 50, 0.12, False),
    # On in 76 % of the child's uses.
    (38, 100, 50, 0.25, False),
    # Of two that are used as often none is the child.
    (95, 100, 100, 0.25, False),
    (95, 101, 100, 0.25, True),
    (5, 100, 5, 0.25, False),
]


def test_a_child_is_decorrelated_from_what_includes_it():
    atoms = NARROW[:, :WIDTH].copy()
    together = np.zeros((WIDTH, WIDTH))
    wanted = atoms.copy()
    for i, (both, first, second, cosine, moves) in zip(
        range(0, WIDTH, 2), PAIRS, strict=True
    ):
        together[i : i + 2, i : i + 2] = [[first, both], [both, second]]
        rest = (1 - cosine**2) ** 0.5 * atoms[:, i + 1]
        atoms[:, i + 1] = rest + cosine * atoms[:, i]
        wanted[:, i + 1] = unit(rest + cosine * (0.5 if moves else 1) * atoms[:, i])
    found = decorrelation.decorrelate_children(
        jnp.float32(atoms), of_tables(together), 0.5
    )
    assert_allclose(found, wanted, atol=1e-6)


HALF = 0.5**0.5
E = np.eye(WIDTH)
ALL = [0, 1, 2, 3, 4]


def stack(*columns):
    """Atoms side by side, at unit length."""
    return unit(np.column_stack(columns))


def rows(*patterns, times=100):
    return np.tile(np.array(patterns, float), (times, 1))


def more(codes, *patterns, times=100):
    return np.concatenate([codes, rows(*patterns, times=times)])


def changed(codes, where, value):
    codes = codes.copy()
    codes[where] = value
    return codes


def beside(codes, share):
    """The codes of a first atom that is on beside each of some others."""
    return [[share, *row] for row in codes]


def rays(frame, extra):
    """Atoms `p + c_k` and another."""
    return stack(frame[:, :1] + frame[:, 1:5], extra)


def of_rays(frame):
    """What four rays tell: `c_k - Σ c / 4` and `4 p + Σ c`."""
    p = frame[:, 0]
    c = frame[:, 1:5]
    return stack(c - c.mean(axis=1, keepdims=True), 4 * p + c.sum(axis=1))


p, q, *c = NARROW.T
wide = WIDE[:, 5]
p_wide = WIDE[:, 0]
c_wide = WIDE[:, 1:5]
lone = rows(*E[:4, :5])
last = E[4, :5]
there = of_rays(WIDE)[:, 4] + 0.4 * wide
# A parent that is merged with the first of its children: the codes of `p + c_1 … p + c_4`.
siblings = [q, *c[:3]]
merged = stack(p + q, *(each + (p - q) / 2 for each in c[:3]), c[3])
triple = 1.5**0.5 * E[:3, :3]
of_merged = rows(
    [2 * HALF, 0, 0, 0, 0], *np.pad(beside(triple, HALF), ((0, 0), (0, 1)))
)
split = of_rays(np.column_stack([p, *siblings]))[:, [4, 1, 2, 3, 0]]
# And of which two are all children.
pair = stack(p + q, c[0] + (p - q) / 2, c[1])
of_pair = 2 * rows([2 * HALF, 0, 0], [HALF, 1.5**0.5, 0])
# A child that has its parent, which is never on beside it.
child = stack(p_wide, p_wide + c_wide[:, 0])
of_child = rows([1, 0], [0, 2 * HALF])
turned = stack(p + q, p - q, c[0])


def of_turned(on):
    """Codes of a pair for p: c is on in some of 100 samples."""
    return 2 * np.repeat([[2 * HALF, 0, 0], [HALF, HALF, 0]], [on, 100 - on], axis=0)


def with_factor(cosine):
    """A parent and children that share something else."""
    return stack(p, cosine**0.5 * NARROW[:, 5:6] + (1 - cosine) ** 0.5 * NARROW[:, 1:5])


def generations():
    """Atom 0 is always on, and one of 1, 2 and 3, which are alike; beside 1 one of 4, 5 and 6,
    which are alike: of a parent and its own parent one is split.
    """
    shared = np.repeat(NARROW[:, [9, 7, 8]] * [0, 0.8, 0.8], [1, 3, 3], axis=1)
    others = np.eye(6)
    return stack(NARROW[:, :7] + shared), rows(
        *(
            [1, *others[i] + (others[j] if i == 0 else 0)]
            for i in range(3)
            for j in (3, 4, 5)
        )
    )


# Atoms, codes, which atoms move, and what they become where that is simple.
CASES = {
    # A parent without an atom gets one without a use.
    "missing": (rays(WIDE, wide), lone, ALL, of_rays(WIDE)),
    # An atom that is there, and apart, is one more ray of the family; in 60 % of the uses of its
    # children it is not apart.
    "there": (rays(WIDE, there), more(lone, last), ALL),
    "busy": (rays(WIDE, wide), more(lone, last), []),
    "on together": (rays(WIDE, wide), rows(*(1 - E[:4, :5]) * [1, 1, 1, 1, 0]), []),
    "coherent by chance": (rays(NARROW, c[3]), lone, []),
    # A parent is taken out of a child that is used in its place; not of a sibling, of which p is a
    # half, nor of an atom that is hardly used.
    "child": (child, of_child, [1], WIDE[:, :2]),
    "child beside": (child, rows([1, 0], [1, 2 * HALF]), []),
    # The child is on in 55 % of the uses of its parent.
    "child on beside": (
        child,
        np.repeat([[0, 2 * HALF], [1.3, 0], [1.3, 2 * HALF]], [140, 50, 60], axis=0),
        [],
    ),
    "siblings": (stack(p_wide + wide, child[:, 1]), rows([1.3, 0], [0, 2 * HALF]), []),
    "quiet": (child, more(of_child, [0, 2 * HALF], times=600), []),
    # A parent that is one of its children as well is split, and the child that it was takes an atom
    # without a use, if there is any but its siblings.
    "merged": (merged, of_merged, ALL, split),
    "not merged": (stack(p, *c[:4]), of_merged, []),
    # .92 of the code without children.
    "large codes": (merged, np.where(of_merged == HALF, 1.3, of_merged), []),
    # A mean cosine of .09.
    "not alike": (
        stack(merged[:, 0], NARROW[:, 2:5] + 0.3145 * NARROW[:, 6:7], c[3]),
        of_merged,
        [],
    ),
    # The parent is on in 77 % of each child's uses.
    "not included": (merged, more(of_merged, *E[1:4, :5], times=30), []),
    # Of two children one is split from the parent that is the other, whose mean it becomes: if a
    # place is free, and the child is on in more than a third of its uses and its codes are large.
    "pair": (pair, of_pair, [0, 1, 2], stack(2 * p + q + c[0], c[0] - q, q - c[0])),
    "pair, no place": (pair, more(of_pair, [0, 0, 1.5]), []),
    "pair, seldom": (pair, more(of_pair, [3 * HALF, 0, 0]), []),
    # A parent is kept if its loading, 1 / √(1 + cosine), is that of the common factor.
    "factor": (with_factor(0.13), rows(E[0, :5], *beside(0.8 * E[:4, :4], 0.8)), []),
    "no factor": (with_factor(0.2), rows(E[0, :5], *beside(0.8 * E[:4, :4], 0.8)), ALL),
    # Never alone, it is what the rays tell, and no child wants a place.
    "never alone": (
        stack(with_factor(0.13), NARROW[:, 6]),
        np.pad(rows(*beside(0.8 * E[:4, :4], 0.8)), ((0, 0), (0, 1))),
        ALL,
    ),
    "generations": (*generations(), [0, 1, 2, 3]),
    # Atoms `p + c` and `p - c`, of which the first is on wherever p is.
    "turned": (turned, of_turned(25), [0, 1], NARROW[:, [1, 0, 2]]),
    # The ray of v is some .85 long, that of u .85 or 1.04.
    "turned, with another": (
        stack(c[0], p + q, p - q),
        changed(np.roll(of_turned(25), 1, axis=1), np.s_[65:, 0], 1),
        [1, 2],
    ),
    "turned by length": (stack(p, q), rows([1, 0], [0.6, 0.6]), [0, 1]),
    "too long": (stack(p, HALF * p + HALF * q), rows([1, 0], [0.6, 0.6]), []),
    # Where the child is on too, the signals of both atoms are longer.
    "not turned": (NARROW[:, :2], more(rows([1, 0], times=10), [1, 1], times=90), []),
}


@mark.parametrize("case", CASES)
def test_atoms_move_where_a_rule_says_so(case):
    dictionary, codes, wanted, *became = CASES[case]
    found, moved, *_ = map(np.asarray, repair(filled(dictionary), counted(codes))[:2])
    assert np.flatnonzero(moved).tolist() == wanted
    assert_allclose(found[:, ~moved], filled(dictionary)[:, ~moved], atol=1e-6)
    if became:
        assert_allclose(found[:, wanted], became[0][:, wanted], atol=1e-5)


def test_of_two_atoms_of_one_concept_the_longer_is_free():
    """At a cosine of .9; it stays where nothing else needs an atom."""
    twins = filled(stack(p_wide, 0.9 * p_wide + 0.19**0.5 * wide))
    found, moved, idle = repair(twins, counted(rows([1, 0], [0, 1.1])))
    assert_allclose(found, twins, atol=1e-6)
    assert not moved.any() and np.flatnonzero(idle == 0).tolist() == [1]


def test_idle_atoms_have_a_tenth_of_the_median_energy_of_those_that_have_any():
    squares = jnp.array([0, 10, 0, 0.9, 12, 1.1, 11])
    wanted = [0, np.inf, 0, 0.9, np.inf, np.inf, np.inf]
    assert_allclose(family.idle_energy(squares), wanted)
    assert not family.idle_energy(jnp.zeros(3)).any()


def test_the_page_of_mathematics_has_the_thresholds():
    page = Path(cooccurrence.__file__).with_name("README.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    constants = vars(cooccurrence) | vars(family)
    assert len(table) == 13
    assert all(constants[name.upper()] == float(value) for name, value in table.items())

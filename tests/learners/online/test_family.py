"""Counts of which atoms are used together, and the rules of families against plain loops over
atoms.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import Generator, default_rng
from numpy.testing import assert_allclose
from pytest import mark

from sae_gap.learners import PARTNERS, Cooccurrence, parents
from sae_gap.learners.online import cooccurrence, decorrelation, family
from tests.learners.online.rules import Repair

# Worlds of four families of five, in dimensions of which some are all zero.
DIM = 200
WIDTH = 20
SAMPLES = 400


def unit(atoms: np.ndarray) -> np.ndarray:
    return atoms / norm(atoms, axis=0)


def of_codes(codes: np.ndarray, number: int) -> Cooccurrence:
    """The counts of dense codes, in tables of which each column's largest shares are kept."""
    on = (codes > 0).astype(np.float32)
    together = on.T @ on
    products = codes.T @ codes
    uses = np.diag(together)
    names = np.arange(len(uses))
    share = np.float32(together / np.maximum(uses, 1)) * (1 - np.eye(len(uses)))
    partners = np.where(np.float32(PARTNERS) < share.T, names, len(uses))
    partners.sort(axis=1)

    def of_partners(table: np.ndarray) -> jax.Array:
        padded = np.pad(table.T, ((0, 0), (0, 1)))
        return jnp.float32(np.take_along_axis(padded, partners, axis=1))

    return Cooccurrence(
        partners=jnp.asarray(partners),
        together=of_partners(together),
        products=of_partners(products),
        uses=jnp.float32(uses),
        sums=jnp.float32(codes.sum(axis=0)),
        squares=jnp.float32(np.diag(products)),
        number=jnp.float32(number),
    )


@mark.parametrize(("num_latents", "slots"), [(12, 8), (600, 40)])
def test_counts_are_those_of_dense_codes(num_latents: int, slots: int) -> None:
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
    anywhere = rng.integers(num_latents + 9, size=places.shape)
    places = np.where(by_slot > 0, places, anywhere)
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
    rows = jnp.float32(rng.standard_normal((num_latents, 7)))
    found = cooccurrence.energy_product(uses, rows, len(codes))
    assert_allclose(found, codes.T @ (codes @ rows), rtol=1e-4, atol=1e-3)


@mark.parametrize(("input_dim", "padding"), [(200, 0), (30, 170)])
def test_coherent_atoms_lose_what_they_share_with_more_central_ones(
    input_dim: int, padding: int
) -> None:
    """At cosines above .3 and above four standard deviations of chance; opposite atoms are not
    coherent, and padding makes none.
    """
    one = unit(default_rng(0).standard_normal((input_dim, 25)))
    sums = one[:, :12] + 0.8 * one[:, 3:15]
    differences = one[:, :6] - 0.8 * one[:, 12:18]
    atoms = unit(np.concatenate([one, sums, differences], axis=1))
    gram = atoms.T @ atoms - np.eye(43)
    least = max(0.3, 4 / input_dim**0.5)
    much = np.where(gram > least, gram, 0)
    central = much.sum(axis=0)
    taken = atoms @ np.where(central[:, None] > central, much, 0)
    most = (atoms * taken).sum(axis=0) / np.maximum((taken**2).sum(axis=0), 1e-12)
    # Some are just below and some are opposite.
    assert ((gram > least - 0.1) & (gram < least)).any() and (gram < -0.3).any()
    wanted = unit(atoms - np.minimum(0.5, most) * taken)
    assert abs(wanted - atoms).max() > 0.01
    given = jnp.pad(jnp.float32(atoms), ((0, padding), (0, 0)))
    found = decorrelation.decorrelate_atoms(given)
    assert_allclose(found[:input_dim], wanted, atol=2e-6)


def maybe(rng: Generator, least: float, most: float) -> float:
    return rng.choice([0.0, rng.uniform(least, most)])


def family_atoms(frame: np.ndarray, rng: Generator) -> np.ndarray:
    """A parent, which may hold some of its first child, and children, which may hold some of it."""
    p = frame[:, :1]
    first = frame[:, 1:2]
    merged = maybe(rng, 0.5, 1.3)
    shared = p - rng.integers(2) * first
    # Equal shares would tie, and rounding would choose.
    children = frame[:, 1:] + maybe(rng, 0.1, 1.3) * rng.uniform(0.8, 1.2, 4) * shared
    children[:, :1] = first + rng.integers(-1, 2) * merged * p
    return np.concatenate([p + merged * first, children], axis=1)


def family_codes(rng: Generator, number: int) -> np.ndarray:
    """A parent beside one child at a time, with other codes there, or off, and some weak atoms."""
    codes = np.zeros((number, 5))
    first = rng.integers(1, 3)
    child = rng.integers(first, rng.integers(first + 1, 6), size=number)
    beside = rng.random(number) < rng.choice([0.3, 0.6, 0.9, 0.97, 1])
    stays = rng.random(number) < rng.choice([0, 0.4, 0.9, 1])
    codes[:, 0] = np.where(beside, stays * rng.uniform(0.4, 1.5), 1)
    codes[np.arange(number), child] = beside * rng.uniform(0.4, 1.6)
    codes *= np.where(rng.random(5) < 0.3, rng.uniform(0.1, 0.7, 5), 1)
    return codes * rng.uniform(0.8, 1.2, codes.shape)


def world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Atoms, a column each, and codes."""
    rng = default_rng(seed)
    dim = rng.choice([60, DIM])
    frame = np.linalg.qr(rng.standard_normal((dim, WIDTH)))[0]
    atoms = np.zeros((DIM, WIDTH))
    codes = np.zeros((SAMPLES, WIDTH))
    for first in range(0, WIDTH, 5):
        members = slice(first, first + 5)
        atoms[:dim, members] = family_atoms(frame[:, members], rng)
        rows = rng.random(SAMPLES) < rng.choice([0.1, 0.5, 0.9])
        codes[rows, members] = family_codes(rng, rows.sum())
    return unit(atoms).astype(np.float32), codes.astype(np.float32)


@jax.jit
def repair(dictionary: jax.Array, counts: Cooccurrence) -> tuple[jax.Array, ...]:
    idle = family.idle_energy(counts.squares)
    atoms, left = family.repair(dictionary, counts, idle)
    return atoms.dictionary, atoms.moved, left < idle


@mark.parametrize("block", range(3))
def test_atoms_move_where_the_rules_say_so(block: int) -> None:
    moves = []
    for seed in range(64 * block, 64 * block + 64):
        atoms, codes = world(seed)
        rules = Repair(atoms.T, codes.astype(float), SAMPLES)
        dictionary, moved, twice = repair(atoms, of_codes(codes, SAMPLES))
        assert np.flatnonzero(moved).tolist() == np.flatnonzero(rules.moved).tolist()
        assert_allclose(dictionary.T, rules.atoms, atol=1e-4, err_msg=str(seed))
        assert np.flatnonzero(twice).tolist() == rules.twice
        moves.extend(rules.moved)
    assert {*moves} == {0, 1, 2, 3, 4}


@jax.jit
def decorrelated(dictionary: jax.Array, counts: Cooccurrence) -> jax.Array:
    return decorrelation.decorrelate_children(dictionary, counts, 0.3)


@mark.parametrize("seed", range(12))
def test_a_child_is_decorrelated_from_what_includes_it(seed: int) -> None:
    atoms, codes = world(seed)
    counts = of_codes(codes, SAMPLES)
    rules = Repair(atoms.T, codes.astype(float), SAMPLES)
    found = decorrelated(atoms, counts)
    chance = np.any(atoms, axis=1).sum() ** -0.5
    for j in range(WIDTH):
        own = rules.parent(j)
        assert parents(counts)[j] == (WIDTH if own is None else own)
        shared = np.zeros(DIM)
        for i in np.flatnonzero(rules.includes[:, j] & (rules.uses > rules.uses[j])):
            cosine = atoms[:, i] @ atoms[:, j]
            if abs(cosine) > chance:
                shared += cosine * atoms[:, i]
        longest = atoms[:, j] @ shared / max(shared @ shared, 1e-9)
        moved = atoms[:, j] - min(0.3, longest) * shared
        assert_allclose(found[:, j], unit(moved), atol=1e-5)


def test_idle_atoms_have_a_tenth_of_the_median_energy_of_those_that_have_any() -> None:
    squares = jnp.array([0, 10, 0, 0.9, 12, 1.1, 11])
    wanted = [0, np.inf, 0, 0.9, np.inf, np.inf, np.inf]
    assert_allclose(family.idle_energy(squares), wanted)
    assert not family.idle_energy(jnp.zeros(3)).any()


def test_the_page_of_mathematics_has_the_thresholds() -> None:
    page = Path(cooccurrence.__file__).with_name("README.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    constants = vars(cooccurrence) | vars(family)
    assert len(table) == 13
    assert all(constants[name.upper()] == float(value) for name, value in table.items())

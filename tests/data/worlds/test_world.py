"""A world is a source of data like any other, and its samples are the same in whatever pieces they
are asked for.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import sae_gap
from sae_gap import World, WorldStream
from sae_gap.data.recording import task_of
from sae_gap.data.worlds import published_world
from sae_gap.data.worlds.feature_vectors import atoms_of, push_apart
from sae_gap.storage.results import key

SIZE = {"num_latents": 60, "input_dim": 20, "roots": 4, "branching": 3, "depth": 1}
SIZE |= {"orthogonal_steps": 3}


def world(**changes):
    return World(**SIZE | {"num_samples": 300} | changes)


@pytest.fixture(scope="module")
def task():
    return sae_gap.draw(world())


def test_the_task_has_the_samples_of_its_streams(task):
    assert task.train.signals.shape == task.id.signals.shape == task.ood.signals.shape == (300, 20)
    assert (task.width, task.input_dim, task.seed, task.train.codes) == (60, 20, 0, None)
    atoms, bias = atoms_of(world().law)
    np.testing.assert_array_equal(task.dictionary, atoms.T)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-6)
    assert np.linalg.norm(bias) == pytest.approx(0.5, abs=1e-6)
    for split in (task.id, task.ood):
        np.testing.assert_allclose(split.signals, split.codes.toarray() @ atoms + bias, atol=1e-4)
    assert task.tree.level.tolist() == [0] * 4 + [1] * 12 + [-1] * 44
    np.testing.assert_array_equal(task.id.labels, task.id.codes.toarray()[:, 0] > 0.5)
    np.testing.assert_array_equal(task_of(world()).ood.signals, task.ood.signals)


def test_a_stream_gives_the_same_samples_in_whatever_pieces():
    stream, again = WorldStream(world()), WorldStream(world(num_samples=7))
    whole, codes = stream.samples(0, 2_500)
    np.testing.assert_array_equal(
        np.concatenate([again(2_000, 500), again(0, 2_000)]), np.roll(whole, 500, axis=0)
    )
    part, some = again.samples(1_000, 100)
    np.testing.assert_array_equal(part, whole[1_000:1_100])
    np.testing.assert_array_equal(some.toarray(), codes.toarray()[1_000:1_100])
    heard = whole[np.diff(codes.indptr) > 0]
    assert len(np.unique(heard, axis=0)) == len(heard) and whole.dtype == np.float32


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: WorldStream("x"), TypeError, "world must be of class World"),
        (lambda: WorldStream(world(), "val"), ValueError, "split must be one of train, id, ood"),
        (lambda: WorldStream(world())(-1, 5), ValueError, "start must be an integer"),
        (lambda: WorldStream(world())(0, 0), ValueError, "count must be an integer"),
        (lambda: World(folder="/nowhere"), TypeError, "read a world by published_world"),
        (lambda: published_world(5), TypeError, "folder must be a path"),
        (lambda: published_world("nowhere"), ValueError, "nowhere has no synthetic_model_config"),
        (lambda: published_world("x", roots=3), ValueError, "must be one of width"),
        (lambda: world(num_samples=3), ValueError, "num_samples must be an integer of at least 4"),
    ],
)
def test_wrong_arguments_are_one_sentence(make, kind, words):
    with pytest.raises(kind, match=rf"{words}.*\.$"):
        make()


def test_numbers_of_other_libraries_are_numbers(task):
    sizes = {"num_latents": jnp.asarray(60), "width": np.uint16(60), "num_samples": np.int64(300)}
    same = world(**sizes, most=np.array(0.4))
    assert same == world() and json.loads(json.dumps(same.asdict())) == world().asdict()
    np.testing.assert_array_equal(sae_gap.draw(same).id.signals, task.id.signals)
    # A stream counts on where a short integer would not.
    stream = WorldStream(world())
    np.testing.assert_array_equal(stream(np.uint16(65_500), np.int8(100)), stream(65_500, 100))


def test_with_double_precision_a_world_is_in_it(task):
    with jax.enable_x64():
        precise = sae_gap.draw(world())
    assert (
        precise.train.signals.dtype
        == precise.id.signals.dtype
        == precise.dictionary.dtype
        == np.float64
    )
    np.testing.assert_allclose(precise.id.signals, task.id.signals, atol=1e-5)


def test_the_magnitude_is_the_mean_of_the_features(task):
    assert world(loudest=6.0, softest=2.0).magnitude == pytest.approx(4)


def test_the_law_does_not_depend_on_the_samples():
    first, other = world(), world(num_samples=50, width=10, scored=7, noise_db=3.0)
    assert first.law == other.law and first.law != world(seed=1).law
    assert (other.width, other.num_train, other.num_scored, first.num_scored) == (10, 50, 7, 300)
    assert World(num_samples=30_000, **SIZE).num_scored == 20_000


@pytest.mark.parametrize("bias", [0.5, 60.0])
def test_noise_has_its_ratio_and_leaves_the_codes(bias):
    clean, noisy = (
        WorldStream(world(bias=bias, noise_db=ratio)).samples(0, 1_024) for ratio in (None, 6.0)
    )
    np.testing.assert_array_equal(clean[1].toarray(), noisy[1].toarray())
    ratio = 10 * np.log10(np.mean(clean[0] ** 2) / np.mean((noisy[0] - clean[0]) ** 2))
    assert ratio == pytest.approx(6, abs=0.15)


def test_out_of_distribution_alone_others_fire_together():
    hard = {"roots": 0, "most": 0.3, "least": 0.2, "rank": 2, "correlation": 0.5, "num_samples": 4}
    upper = np.triu_indices(60, 1)
    train, here, there = (
        np.corrcoef(WorldStream(world(**hard), split).samples(0, 8_192)[1].toarray().T > 0)[upper]
        for split in ("train", "id", "ood")
    )
    assert np.corrcoef(train, here)[0, 1] > 0.95 and abs(np.corrcoef(here, there)[0, 1]) < 0.4


def test_samples_have_a_seed_of_their_own_where_the_law_has_none():
    even = {"rank": 0, "spread": (0.5, 0.0), "num_samples": 4}
    one, other = (
        WorldStream(world(seed=seed, **even)).samples(0, 500)[1].toarray() for seed in (0, 1)
    )
    # Magnitudes of 4 to 5, and which features fire, were the same numbers.
    assert np.mean((one > 0) & (other > 0)) < 0.5 * np.mean(one > 0)
    assert not np.array_equal(one, other)


def test_dense_antipodal_and_log_normal_features_are_that():
    hard = world(roots=0, rank=0, dense=3, antipodal=2, lognormal=0.7, num_samples=8_000)
    _, codes = WorldStream(hard).samples(0, 8_000)
    codes, (atoms, _) = codes.toarray(), atoms_of(hard.law)
    np.testing.assert_allclose(np.mean(codes[:, -3:] > 0, axis=0), 0.5, atol=0.03)
    assert np.mean(codes[:, -4] > 0) < 0.1
    np.testing.assert_array_equal(atoms[[54, 56]], -atoms[[53, 55]])
    assert np.abs(atoms[52] @ atoms[[53, 51]].T).max() < 0.9 > abs(atoms[57] @ atoms[56])
    loud = codes[codes[:, 57] > 0, 57]
    mean = 5 - 57 / 59
    assert stats.kstest(np.log(loud), stats.norm(np.log(mean) - 0.245, 0.7).cdf).pvalue > 1e-3
    with pytest.raises(ValueError, match="dense or antipodal are more than the 60"):
        world(roots=0, dense=21, antipodal=20)


def test_a_drift_moves_the_mean_from_the_first_sample_to_the_last():
    ways = []
    for split, number in (("train", 2_000), ("id", 300)):
        moved, still = (
            WorldStream(world(drift=drift, num_samples=2_000, scored=300), split)(0, number)
            for drift in (6.0, 0.0)
        )
        move = (moved - still)[[0, number // 2, number - 1]]
        np.testing.assert_allclose(
            np.linalg.norm(move, axis=1), [0, 6 * (number // 2) / (number - 1), 6], rtol=1e-3
        )
        ways.append(move[-1])
    np.testing.assert_allclose(*ways, rtol=1e-3)


def test_what_tells_worlds_apart():
    changes = ({}, {"seed": 1}, {"roots": 3}, {"scored": 9}, {"noise_db": 3.0}, {"width": 30})
    told = [world(**change).asdict() for change in changes]
    assert len({key(entries) for entries in told}) == len(told)
    assert told[0]["world"] == "synthsae roots=4 branching=3 depth=1 orthogonal_steps=3"
    counts = np.diff(WorldStream(world(), "id").samples(0, 4_000)[1].indptr)
    assert told[0]["sparsity"] == round(counts.mean())
    assert told[5]["width"] == 30 < told[5]["num_latents"] == 60
    assert "width" not in told[0]
    assert told[5]["sparsity"] < told[0]["sparsity"]
    assert World(num_latents=1, input_dim=3, roots=0, num_samples=4).sparsity == 1
    # An SAE of two latents has a k of one, however often both are on.
    often = {"roots": 0, "most": 0.95, "least": 0.95, "exponent": 0}
    assert World(num_latents=2, input_dim=3, num_samples=4, **often).sparsity == 1


def test_atoms_are_pushed_apart_by_the_published_steps():
    atoms = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)

    def loss(atoms):
        gram = atoms @ atoms.T
        inner = jnp.diagonal(gram)
        return jnp.sum(gram**2) - jnp.sum(inner**2) + 7 * jnp.sum((inner - 1) ** 2)

    optimiser = optax.adam(3e-4)
    moved = jnp.asarray(atoms)
    state, slope = optimiser.init(moved), jax.jit(jax.grad(loss))
    for _ in range(20):
        updates, state = optimiser.update(slope(moved), state)
        moved = optax.apply_updates(moved, updates)
    expected = moved / jnp.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(push_apart(atoms, 20), expected, atol=2e-6)
    assert np.abs(np.asarray(expected) - atoms).max() > 3e-3
    np.testing.assert_allclose(push_apart(atoms, 0), atoms, atol=1e-6)

"""The generative model has the law of the paper."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_gap import Setting, draw
from sae_gap.core.codes import Codes
from sae_gap.data import paper, paper_model
from sae_gap.data.paper_stream import Stream

# Tests on random draws have fixed seeds, so they fail by chance once at most, and then for good.
UNLIKELY = 1e-4
LARGE = Setting(num_latents=40, sparsity=4, num_samples=8_000, seed=3)
# Several pieces of the size of the last.
STREAM = dataclasses.replace(LARGE, num_samples=25_000, stream=True)


@pytest.fixture(scope="module")
def large():
    """Enough samples for statistics; the ID pool is 1 ... 19, the OOD pool 20 ... 39."""
    return draw(LARGE)


def id_codes(task):
    return np.concatenate([task.train.codes, task.id.codes])


def supports(codes):
    return np.argwhere(codes)[:, 1].reshape(len(codes), -1)


def uniform_p_value(counts):
    return stats.chisquare(counts).pvalue


def test_an_id_sample_is_heads_or_tails_of_a_fair_coin(large):
    heads = id_codes(large)[:, 0] > 0
    assert stats.binomtest(int(heads.sum()), len(heads)).pvalue > UNLIKELY
    # Consecutive tosses are independent.
    assert stats.binomtest(int((heads[1:] == heads[:-1]).sum()), len(heads) - 1).pvalue > UNLIKELY


@pytest.mark.parametrize(
    ("name", "pool"), [("heads", range(1, 20)), ("tails", range(1, 40)), ("ood", range(20, 40))]
)
def test_a_support_is_uniform_in_its_pool_beside_latent_zero_but_for_tails(large, name, pool):
    codes = np.asarray(large.ood.codes) if name == "ood" else id_codes(large)
    codes = codes if name == "ood" else codes[(codes[:, 0] > 0) == (name == "heads")]
    found = supports(codes)
    counts = np.bincount(found.ravel(), minlength=40)
    assert found.shape[1] == 4 and counts[0] == len(codes) * (name != "tails")
    assert counts[0] + counts[pool].sum() == found.size
    assert uniform_p_value(counts[pool]) > UNLIKELY


@pytest.mark.parametrize(("num_latents", "pool"), [(21, 10), (20, 9)])
def test_pools_of_odd_and_even_widths(num_latents, pool):
    task = draw(Setting(num_latents=num_latents, sparsity=3, num_samples=400))
    codes = id_codes(task)
    heads, ood = supports(codes[codes[:, 0] > 0]), supports(np.asarray(task.ood.codes))
    assert set(heads.ravel()) == set(range(pool + 1))
    assert set(ood.ravel()) == {0, *range(pool + 1, num_latents)}


@pytest.mark.parametrize("split", ["train", "id", "ood"])
def test_values_are_uniform(large, split):
    codes = np.asarray(getattr(large, split).codes)
    assert stats.kstest(codes[codes > 0], "uniform").pvalue > UNLIKELY
    latent_zero = codes[:, 0][codes[:, 0] > 0]
    assert stats.kstest(latent_zero, "uniform").pvalue > UNLIKELY


@pytest.mark.parametrize("split", ["train", "id", "ood"])
def test_signals_are_the_dictionary_times_the_codes(large, split):
    found = getattr(large, split)
    expected = np.asarray(found.codes, np.float64) @ np.asarray(large.dictionary, np.float64).T
    np.testing.assert_allclose(found.signals, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("num_samples", "sizes"),
    [(4, (2, 2, 2)), (7, (3, 4, 3)), (101, (50, 51, 50)), (200, (100, 100, 100))],
)
def test_split_sizes(num_samples, sizes):
    task = draw(Setting(num_latents=20, sparsity=3, num_samples=num_samples))
    for split, size in zip((task.train, task.id, task.ood), sizes, strict=True):
        assert split.signals.shape == (size, 12) and split.codes.shape == (size, 20)
        assert split.signals.dtype == split.codes.dtype == task.dictionary.dtype == jnp.float32
    assert (task.width, task.input_dim, task.seed) == (20, 12, 0)


def leaves(task):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(task)]


@pytest.mark.parametrize(
    "change", [{"num_samples": 50}, {"noise_db": 10.0}, {"num_samples": 333, "noise_db": -3.0}]
)
def test_the_dictionary_outlives_the_samples(task, change):
    other = draw(Setting(**{"num_latents": 20, "sparsity": 3, "num_samples": 200} | change))
    np.testing.assert_array_equal(other.dictionary, task.dictionary)


@pytest.fixture(scope="module")
def stream():
    return draw(STREAM)


@pytest.mark.parametrize("setting", [LARGE, STREAM], ids=["pool", "stream"])
def test_noise_leaves_the_codes_and_has_its_ratio(setting, large, stream):
    noisy = draw(dataclasses.replace(setting, noise_db=7.0))
    noises = []
    for name in ("train", "id", "ood"):
        clean, found = getattr(stream if setting.stream else large, name), getattr(noisy, name)
        np.testing.assert_array_equal(found.codes, clean.codes)
        signals = np.asarray(clean.signals, np.float64)
        noise = np.asarray(found.signals, np.float64) - signals
        # 2,500 x 19 draws pin the power of the noise to .03 dB; train and ID share one level.
        assert 10 * np.log10(np.mean(signals**2) / np.mean(noise**2)) == pytest.approx(7, abs=0.15)
        assert stats.kstest(noise.ravel() / noise.std(), "norm").pvalue > UNLIKELY
        noises.append(noise[:2_500].ravel())
    assert all(abs(np.corrcoef(noises[0], noise)[0, 1]) < 0.02 for noise in noises[1:])


def test_a_stream_has_signals_to_train_on_and_the_truth_of_the_rest(stream, large):
    assert stream.train.signals.shape == (25_000, 19) and stream.train.codes is None
    assert len(np.unique(stream.train.signals, axis=0)) == 25_000
    for split in (stream.id, stream.ood):
        assert split.signals.shape == (2_500, 19) and split.codes.shape == (2_500, 40)
    np.testing.assert_array_equal(stream.dictionary, large.dictionary)
    assert {leaf.dtype for leaf in jax.tree.leaves(stream)} == {jnp.dtype("float32")}
    assert (supports(np.asarray(stream.ood.codes))[:, 0] == 0).all()


def test_codes_of_a_stream_are_few_uniform_values_on_atoms():
    # As many dimensions as latents, so that the codes can be read off the signals.
    task = draw(Setting(num_latents=20, sparsity=3, num_samples=3_000, input_dim=20, stream=True))
    codes = np.linalg.solve(
        np.asarray(task.dictionary, np.float64), np.asarray(task.train.signals, np.float64).T
    ).T
    on = np.abs(codes) > 1e-4
    assert (on.sum(axis=1) > 2.99).mean() > 0.99 and on.sum(axis=1).max() == 3
    assert stats.kstest(codes[on], "uniform").pvalue > UNLIKELY
    heads = on[:, 0]
    assert stats.binomtest(int(heads.sum()), 3_000).pvalue > UNLIKELY
    assert not on[heads][:, 10:].any() and on[~heads][:, 10:].any(axis=0).all()


@pytest.mark.parametrize("noise_db", [None, 7.0])
def test_a_stream_is_the_same_in_whatever_pieces_it_is_asked_for(noise_db):
    setting = dataclasses.replace(STREAM, noise_db=noise_db)
    whole, source = draw(setting), Stream(setting)
    np.testing.assert_array_equal(source.dictionary, whole.dictionary)
    for start, count in ((19_990, 20), (0, 3), (9_999, 10_002), (24_000, 1_000)):
        np.testing.assert_array_equal(
            source(start, count), whole.train.signals[start : start + count]
        )
    assert source(10**9, 2).shape == (2, 19)
    with pytest.raises(ValueError, match="give it stream=True"):
        Stream(dataclasses.replace(setting, stream=False))


def test_settings_keep_the_draws_they_have_always_had():
    # Numbers of the version before streams: stored rows are of these very samples.
    task = draw(Setting(num_latents=20, sparsity=3, num_samples=200, seed=5, noise_db=10.0))
    found = [
        float(np.asarray(leaf, np.float64).sum())
        for leaf in (task.train.signals, task.id.codes, task.ood.signals)
    ]
    assert found == pytest.approx(
        [-4.731332600815222, 149.643112053629, 3.376342498580925], rel=1e-5
    )


def test_draws_are_those_of_a_whole_dictionary(monkeypatch):
    # The definition, with everything at once, whose bits stored rows depend on.
    setting = Setting(num_latents=100, sparsity=10, num_samples=101, seed=5)
    atoms = np.random.default_rng([5, 0]).standard_normal((setting.input_dim, 100))
    atoms /= np.linalg.norm(atoms, axis=0)
    for numbers in (100, 700, 4_000_000):
        monkeypatch.setattr(paper_model, "_DRAWS_AT_ONCE", numbers)
        np.testing.assert_array_equal(draw(setting).dictionary, atoms.astype(np.float32))


@pytest.mark.parametrize("change", [{}, {"noise_db": 7.0}, {"stream": True, "num_samples": 500}])
def test_codes_of_very_many_latents_are_held_by_their_active_columns(monkeypatch, change):
    setting = Setting(
        **{"num_latents": 2_000, "sparsity": 3, "num_samples": 60, "seed": 2} | change
    )
    dense = draw(setting)
    monkeypatch.setattr(paper, "DENSE_LATENTS", 1_999)
    held = draw(setting)
    for name in ("train", "id", "ood"):
        one, other = getattr(dense, name), getattr(held, name)
        np.testing.assert_array_equal(one.signals, other.signals)
        if one.codes is None:
            assert other.codes is None
            continue
        assert isinstance(other.codes, Codes) and other.codes.shape == one.codes.shape
        assert (
            len(other.codes.latents)
            == np.count_nonzero(np.any(np.asarray(one.codes) != 0, axis=0))
            < 1_000
        )
        np.testing.assert_array_equal(other.codes.dense(), one.codes)
        np.testing.assert_array_equal(other.labels, one.labels)
    np.testing.assert_array_equal(held.dictionary, dense.dictionary)


def test_a_draw_in_double_precision():
    with jax.enable_x64(True):
        task = draw(Setting(num_latents=20, sparsity=3, num_samples=20))
        assert {leaf.dtype for leaf in jax.tree.leaves(task)} == {jnp.dtype("float64")}
        np.testing.assert_allclose(task.id.signals, task.id.codes @ task.dictionary.T, atol=1e-15)
    assert set(np.count_nonzero(id_codes(task), axis=1)) == {3}


# Above 10 k² latents subsets are drawn with rejection, else by ranking, in pieces: 40 and 41, 10 and
# 11, and 361 lie beside the switch.
@pytest.mark.parametrize(
    ("k", "size"),
    [(2, 2_000), (2, 41), (2, 40), (3, 20), (1, 11), (1, 10), (5, 5), (6, 361)],
)
@pytest.mark.parametrize("at_once", [50, 4_000_000])
def test_subsets_are_distinct_and_uniform(monkeypatch, k, size, at_once):
    monkeypatch.setattr(paper_model, "_DRAWS_AT_ONCE", at_once)
    subsets = paper_model._distinct(3_001, k, size, np.random.default_rng(0))
    assert subsets.shape == (3_001, k) and subsets.min() >= 0 and subsets.max() < size
    assert all(len(set(row)) == k for row in subsets)
    if k < size:
        assert uniform_p_value(np.bincount(subsets.ravel(), minlength=size)) > UNLIKELY


# In both cases all subsets are few enough to count: 45 of ranking, 820 of rejection.
@pytest.mark.parametrize(("size", "number"), [(10, 45), (41, 820)])
def test_every_subset_is_equally_likely(size, number):
    pairs = np.sort(paper_model._distinct(20_000, 2, size, np.random.default_rng(1)), axis=1)
    counts = np.unique(pairs, axis=0, return_counts=True)[1]
    assert len(counts) == number and uniform_p_value(counts) > UNLIKELY


@given(
    num_latents=st.integers(2, 60),
    sparsity=st.integers(1, 12),
    num_samples=st.integers(4, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=12, deadline=None)
def test_every_setting_that_is_accepted_can_be_drawn(num_latents, sparsity, num_samples, seed):
    try:
        setting = Setting(num_latents, sparsity, num_samples, seed)
    except ValueError:
        return
    task = draw(setting)
    codes = np.concatenate([id_codes(task), task.ood.codes])
    # A uniform value may be zero itself, but hardly in a few hundred draws.
    assert (np.count_nonzero(codes, axis=1) == sparsity).all()
    assert codes.min() >= 0
    assert codes.max() <= 1
    assert all(np.isfinite(leaf).all() for leaf in leaves(task))

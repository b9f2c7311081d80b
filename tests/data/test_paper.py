"""The generative model has the law of the paper; a file is read whole or refused in one sentence."""

import itertools
import re
from dataclasses import replace

import jax
import numpy as np
from jax.tree_util import tree_leaves, tree_map, tree_structure
from numpy import asarray
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, fixture, mark, raises
from scipy import stats

from sae_gap import Recording, Setting, draw, load
from sae_gap.data import Stream, draws, paper
from tests.data.activations.test_rows import TRAP
from tests.saes.examples import refused

# Tests on random draws have fixed seeds, so they fail by chance once at most, and then for good.
UNLIKELY = 1e-4
LARGE = Setting(num_latents=41, sparsity=4, num_samples=8_000, seed=3)
# Several pieces of the size of the last.
STREAM = replace(LARGE, num_samples=25_000, stream=True)
SPLITS = ("train", "id", "ood")


@fixture(scope="module")
def large():
    """Enough samples for statistics; the ID pool is 1 ... 20, the OOD pool 21 ... 40."""
    return draw(LARGE)


def id_codes(task):
    return np.concatenate([task.train.codes, task.id.codes])


def is_fair(heads):
    return stats.binomtest(int(heads.sum()), len(heads)).pvalue > UNLIKELY


def is_even(counts):
    return stats.chisquare(counts).pvalue > UNLIKELY


@mark.parametrize(
    ("name", "pool"),
    [("heads", range(1, 21)), ("tails", range(1, 41)), ("ood", range(21, 41))],
)
def test_a_support_is_even_in_its_pool_beside_latent_zero_but_for_tails(
    large, name, pool
):
    codes = id_codes(large)
    heads = id_codes(large)[:, 0] > 0
    # Consecutive tosses are independent.
    assert is_fair(heads) and is_fair(heads[1:] == heads[:-1])
    codes = (
        asarray(large.ood.codes) if name == "ood" else codes[heads == (name == "heads")]
    )
    counts = np.count_nonzero(codes, axis=0)
    assert (np.count_nonzero(codes, axis=1) == 4).all()
    assert counts[0] == len(codes) * (name != "tails") and is_even(counts[pool])
    assert counts[0] + counts[pool].sum() == 4 * len(codes)
    assert stats.kstest(codes[codes > 0], "uniform").pvalue > UNLIKELY
    for split in (large.train, large.id, large.ood):
        expected = asarray(split.codes, float) @ asarray(large.dictionary, float).T
        assert_allclose(split.signals, expected, atol=1e-6)


@mark.parametrize(("num_samples", "sizes"), [(4, (2, 2, 2)), (101, (50, 51, 50))])
def test_splits_have_their_sizes_and_a_dictionary_that_outlives_them(
    task, num_samples, sizes
):
    with jax.enable_x64():
        few = draw(Setting(20, 3, num_samples, noise_db=10.0))
    assert tuple(len(getattr(few, name).codes) for name in SPLITS) == sizes
    assert {leaf.dtype for leaf in tree_leaves(few)} == {np.dtype(float)}
    assert_array_equal(few.dictionary.astype(np.float32), task.dictionary)
    padded = draw(Setting(20, 3, num_samples, noise_db=10.0, padded_dim=14))
    for part in (padded.train.signals, padded.ood.signals, padded.dictionary.T):
        assert part.shape[1] == 14 and not np.any(part[:, 12:]) and padded.padding == 2


@mark.parametrize("setting", [LARGE, STREAM], ids=["pool", "stream"])
def test_noise_leaves_the_codes_and_has_its_ratio(setting):
    tasks = [draw(replace(setting, noise_db=db)) for db in (None, 7.0)]
    noises = []
    for name in SPLITS:
        clean, found = (getattr(task, name) for task in tasks)
        assert_array_equal(found.codes, clean.codes)
        signals = asarray(clean.signals, float)
        noise = asarray(found.signals, float) - signals
        # 2,500 x 19 draws pin the power of the noise to .03 dB; train and ID share one level.
        assert 10 * np.log10(np.mean(signals**2) / np.mean(noise**2)) == approx(
            7, abs=0.15
        )
        noises.append(noise[:2_500].ravel())
    assert np.abs(np.corrcoef(noises)[0, 1:]).max() < 0.02


def test_codes_of_a_stream_are_few_uniform_values_on_atoms_and_those_of_training_unknown():
    # As many dimensions as latents, so that the codes can be read off the signals.
    task = draw(Setting(20, 3, 3_000, input_dim=20, stream=True))
    dictionary = asarray(task.dictionary, float)
    signals = asarray(task.train.signals, float)
    codes = np.linalg.solve(dictionary, signals.T).T
    on = np.abs(codes) > 1e-4
    assert (on.sum(axis=1) > 2.99).mean() > 0.99 and on.sum(axis=1).max() == 3
    assert (
        stats.kstest(codes[on], "uniform").pvalue > UNLIKELY
        and is_fair(on[:, 0])
        and task.train.codes is None
    )
    assert not on[on[:, 0], 10:].any() and task.id.codes.shape == (1_500, 20)


@mark.parametrize("noise_db", [None, 7.0])
def test_a_stream_is_the_same_in_whatever_pieces_it_is_asked_for(large, noise_db):
    setting = replace(STREAM, noise_db=noise_db)
    signals = draw(setting).train.signals
    source = Stream(setting)
    assert_array_equal(source.dictionary, large.dictionary)
    for start, count in ((19_990, 20), (0, 3), (9_999, 10_002)):
        assert_array_equal(source(start, count), signals[start : start + count])
    assert len(np.unique(signals, axis=0)) == 25_000 and source(10**9, 2).shape == (
        2,
        19,
    )
    with raises(ValueError, match="give it stream=True"):
        Stream(LARGE)


@mark.parametrize("at_once", [50, 4_000_000])
def test_settings_keep_the_draws_they_have_always_had(monkeypatch, at_once):
    # Numbers of the version before streams: stored rows are of these very samples.
    monkeypatch.setattr(draws, "DRAWS_AT_ONCE", at_once)
    task = draw(
        Setting(num_latents=20, sparsity=3, num_samples=200, seed=5, noise_db=10.0)
    )
    parts = (task.train.signals, task.id.codes, task.ood.signals)
    found = [np.sum(part, dtype=float) for part in parts]
    assert found == approx(
        [-4.731332600815222, 149.643112053629, 3.376342498580925], 1e-5
    )


def test_codes_of_very_many_latents_are_sparse(monkeypatch):
    setting = Setting(20, 3, 200, noise_db=7.0)
    dense = draw(setting)
    monkeypatch.setattr(paper, "DENSE_LATENTS", 19)
    wide = draw(setting)
    for name in SPLITS:
        one = getattr(dense, name)
        other = getattr(wide, name)
        assert_array_equal(one.signals, other.signals)
        assert_array_equal(other.codes.toarray(), one.codes)


# Above 10 k² latents subsets are drawn with rejection, else by ranking, in pieces: 40 and 41, and 10
# and 11, lie beside the switch. All subsets are few enough to count.
@mark.parametrize(("k", "size"), [(2, 41), (2, 40), (1, 11), (1, 10), (4, 5)])
def test_all_subsets_are_equally_likely(k, size):
    subsets = np.sort(draws.distinct(10_001, k, size, default_rng(0)), axis=1)
    found, counts = np.unique(subsets, axis=0, return_counts=True)
    assert_array_equal(found, [*itertools.combinations(range(size), k)])
    assert subsets.shape == (10_001, k) and is_even(counts)


def write(folder, arrays, save=np.savez):
    save(folder / "task.npz", **arrays)
    return folder / "task.npz"


@mark.parametrize("save", [np.savez, np.savez_compressed])
@mark.parametrize("dtype", ["f4", np.int8, np.float16, np.longdouble, ">f4"])
def test_a_file_gives_back_what_was_saved(
    tmp_path, task, arrays, save, dtype, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {name: (3 * array).astype(dtype) for name, array in arrays.items()}
    given["Y_ood"] = np.asfortranarray(given["Y_ood"])
    path = write(tmp_path, given | {"unrelated": np.array(["text"])}, save)
    found = load("~/task.npz")
    again = Recording("~/task.npz", seed=7)
    assert tree_structure(found) == tree_structure(task)
    wanted = [given[name].astype("f4") for name in ("Y_val", "Z_ood", "A")]
    parts = [found.id.signals, found.ood.codes, found.dictionary]
    tree_map(lambda *pair: assert_array_equal(*pair, strict=True), parts, wanted)
    assert (again.path, again.task().seed) == (path, 7)


@mark.parametrize("kept", [(), ("A",), ("Z_train",), ("Z_val", "Z_ood")])
def test_any_part_of_the_truth_tells_the_width(tmp_path, arrays, kept):
    part = {
        name: array
        for name, array in arrays.items()
        if name.startswith("Y") or name in kept
    }
    # Splits may have different sizes.
    path = write(
        tmp_path, part | {name: arrays[name][:7] for name in part if "_val" in name}
    )
    found = load(path, width=None if kept else 20)
    assert (found.width, load(path, width=64).width, len(found.id.signals)) == (
        20,
        64,
        7,
    )
    known = found.dictionary, found.train.codes, found.id.codes, found.ood.codes
    names = "A", "Z_train", "Z_val", "Z_ood"
    assert [array is not None for array in known] == [name in kept for name in names]


# What arrays of some names become; None for those that are missing.
BAD = [
    ("Y_train", lambda array: None, "has no tensor Y_train"),
    ("A|Z.*", lambda array: None, "give width"),
    ("Y_ood", lambda array: array[:0], "its shape is (0, 12);"),
    ("A", lambda array: array.astype(float) * 1e300, "has NaN or infinite entries; "),
    ("Y_ood", lambda array: array * 1j, "has the type complex64; "),
    ("Y_ood", lambda array: array[:, :-1], "(100, 12) is expected"),
    ("A", lambda array: array.T, "has shape (20, 12)"),
    ("Z_ood", lambda array: array[:, :-1], "(100, 20) is expected"),
    ("Z_val", lambda array: array[:-1], "has shape (99, 20)"),
    ("A", lambda array: TRAP, "allow_pickle=False"),
]


@mark.parametrize(("place", "spoil", "words"), BAD)
@mark.filterwarnings("error::RuntimeWarning")
def test_bad_arrays_are_refused(tmp_path, arrays, place, spoil, words):
    for name in [name for name in arrays if re.fullmatch(place, name)]:
        arrays = arrays | {name: spoil(arrays[name])}
    path = write(
        tmp_path, {name: array for name, array in arrays.items() if array is not None}
    )
    refused(lambda: load(path), words)


def test_what_is_no_archive_of_arrays_and_bad_options_are_refused(tmp_path, arrays):
    path = tmp_path / "task.npz"
    refused(lambda: load(path), "is not a file")
    path.write_bytes(b"text")
    refused(lambda: load(path), "cannot be read as ")
    write(tmp_path, arrays)
    refused(lambda: load(path, width=True), "width must be an integer")
    refused(lambda: Recording(path, seed=-1), "seed must be an integer")

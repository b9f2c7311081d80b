"""The Jacobian lens against finite differences of the model in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from sae_gap.core.lasso_problem import product
from sae_gap.lm.language_model import Windows
from sae_gap.lm.lens import ROUNDED, _of_window, _read, _rounding, fit_lens, open_lens
from sae_gap.lm.texts import Texts
from sae_gap.storage import trees
from sae_gap.storage.folder import Folder
from tests import tiny, torch_files
from tests.lm.test_llama import states

DIM, LAST = tiny.LM["dim"], tiny.LM["blocks"] - 1
CONTEXT, FIRST = 11, 4
OPTIONS = {"context": CONTEXT, "first": FIRST}
RNG = np.random.default_rng(3)
WORDS = ["the", "cat", "in", "hat", "sat", "on", "12", "mats", "near", "inn"]
TEXTS = [" ".join(RNG.choice(WORDS, 12)) for _ in range(4)]
TEXTS = Texts((TEXTS[0], "short", *TEXTS), tuple("abcdef"), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lens")


@pytest.fixture(scope="module")
def lm(folder):
    return tiny.tiny_lm(folder)


@pytest.fixture(scope="module")
def lens(lm, folder):
    return fit_lens(lm, TEXTS, folder / "lens", windows=3, **OPTIONS)


LOUD = 300


def loud(lm, token):
    """The model, in which one token is an outlier until the last block makes all tokens as long."""
    return eqx.tree_at(
        lambda model: (model.embedding, model.blocks.down),
        lm.model,
        (lm.model.embedding.at[token].multiply(LOUD), lm.model.blocks.down.at[-1].multiply(LOUD)),
    )


@pytest.mark.parametrize("outliers", ["drop", "keep"])
def test_it_is_the_mean_over_places_of_the_derivative_of_the_sum(lm, tmp_path, outliers):
    tensors = tiny.write_lm(tmp_path / "again.gguf")
    tokens = np.array([*range(60, 60 + CONTEXT)])
    tokens[7] = 200
    tensors["token_embd.weight"][200] *= LOUD
    tensors[f"blk.{LAST}.ffn_down.weight"] *= LOUD
    counted = [place for place in range(FIRST, CONTEXT - 1) if (place, outliers) != (7, "drop")]
    arguments = loud(lm, 200), tokens[:-1], FIRST, outliers == "drop"
    found, rounded = _of_window(*arguments, np.float32), _of_window(*arguments)
    assert 1e-4 < np.linalg.norm(rounded - found) / np.linalg.norm(found) < 0.005
    direction, small = np.random.default_rng(0).normal(size=DIM), 1e-3
    for block in range(LAST):
        shift = np.zeros((CONTEXT, DIM))
        shift[counted] = small * direction
        ends = [states(tensors, tokens, {block: sign * shift})[0][-1] for sign in (1, -1)]
        expected = (ends[0] - ends[1])[counted].sum(axis=0) / (2 * small * len(counted))
        size = np.abs(expected).max()
        np.testing.assert_allclose(found[block] @ direction, expected, atol=2e-4 * size)


def test_a_rounding_product_rounds_both_factors_of_its_derivative_alone():
    left, right, change = (RNG.normal(size=shape).astype("f") for shape in ((5, 7), (7, 3), (5, 3)))
    found, back = jax.vjp(_rounding(ROUNDED), left, right)
    np.testing.assert_array_equal(found, product(left, right))
    factors = (each.astype(ml_dtypes.bfloat16).astype(float) for each in (change, right.T))
    np.testing.assert_allclose(back(change)[0], np.matmul(*factors), rtol=1e-5)


def test_a_block_multiplies_by_the_product_that_it_is_given(lm):
    met = []

    def noted(left, right):
        met.append(right.shape)
        return product(left, right)

    tokens = jnp.arange(CONTEXT)[None]
    windows = Windows(tokens, tokens * 0, tokens)
    block = jax.tree.map(lambda leaf: leaf[0], lm.model.blocks)
    lm.model.block_step(windows, noted)(lm.model.embed(windows), block)
    matrices = (block.query, block.key, block.value, block.output, block.gate, block.up, block.down)
    assert met == [each.shape for each in matrices]


def test_windows_are_averaged_and_their_spread_tells_the_error(lm, lens):
    rows = [row for _, row in TEXTS.shuffled(lm.tokenise, 0) if len(row) >= CONTEXT]
    each = np.array([_of_window(lm.model, row[: CONTEXT - 1], FIRST, True) for row in rows[:3]])
    assert lens.windows == 3 and list(lens.jacobians) == [*range(LAST)]
    for block in range(LAST):
        mean = each[:, block].mean(axis=0)
        np.testing.assert_allclose(lens.jacobian(block), mean, atol=1e-6)
        # The squared length of the mean exceeds that of what it estimates by its variance.
        variance = each[:, block].var(axis=0, ddof=1).sum() / 3
        expected = np.sqrt(variance / (np.square(mean).sum() - variance))
        np.testing.assert_allclose(lens.errors[block], expected, rtol=1e-4)


def test_a_text_as_long_as_the_window_is_one_whose_outliers_count_where_they_are_kept(lm, tmp_path):
    (tokens,), found = lm.tokenise(TEXTS.texts[:1]), {}
    noisy = lm._replace(model=loud(lm, tokens[6]))
    texts = Texts(TEXTS.texts[:1], ("a",), None)
    given = {"windows": 1, "context": len(tokens), "first": 2}
    for outliers in ("drop", "keep"):
        lens = fit_lens(noisy, texts, tmp_path / outliers, **given, outliers=outliers)
        found[outliers] = lens.jacobian(0)
        expected = _of_window(noisy.model, tokens[:-1], 2, outliers == "drop")[0]
        np.testing.assert_array_equal(found[outliers], expected)
        # One window tells no error.
        assert lens.errors == {}
    assert not np.allclose(found["drop"], found["keep"])


def test_a_killed_fit_goes_on_to_the_same_bits(lm, lens, folder, tmp_path, monkeypatch):
    write = Folder.write

    def killed(self, name, data):
        if name == "lens.safetensors" and (tmp_path / name).exists():
            raise KeyboardInterrupt
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_lens(lm, TEXTS, tmp_path, windows=3, **OPTIONS)
    assert open_lens(tmp_path, lm).windows == 1
    monkeypatch.setattr(Folder, "write", write)
    fit_lens(lm, TEXTS, tmp_path, windows=3, **OPTIONS)
    places = [Folder(place) for place in (tmp_path, folder / "lens")]
    np.testing.assert_equal(*(_read(place, lm, {}) for place in places))
    # With the checksum of its arrays.
    np.testing.assert_equal(*(trees.read_note(place.read("lens.safetensors")) for place in places))
    # What is there is not run again.
    monkeypatch.setattr("sae_gap.lm.lens._of_window", None)
    assert fit_lens(lm, TEXTS, tmp_path, windows=2, **OPTIONS).windows == 3


def test_it_reads_as_the_unembedding_of_the_moved_activation(lm, lens):
    hidden = np.random.default_rng(1).normal(size=(5, DIM))
    moved = hidden @ np.asarray(lens.jacobian(1), np.float64).T
    unembedding = np.asarray(lm.model.unembedding, np.float64)
    atoms, labels = lens.atoms(1)
    assert atoms.dtype == np.float32
    np.testing.assert_allclose(atoms, unembedding @ lens.jacobian(1), atol=1e-5)
    size = np.sqrt(np.mean(moved**2, axis=1, keepdims=True) + 1e-5)
    logits = (np.asarray(lm.model.norm) * moved / size) @ unembedding.T
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(lens.log_probabilities(hidden, 1), expected, atol=1e-4)
    # A byte that is part of a letter is spelled by the tokenizer.
    shown = [labels[token] for token in lm.tokenise(["the inn —"])[0]]
    assert len(labels) == len(atoms) and shown == ["the", " ", "in", "n", " ", "â", "Ģ", "Ķ"]


def test_the_top_tokens_of_a_text(lm, lens):
    text = "the cat"
    tokens, labels = lm.tokenise([text])[0], lens.atoms(LAST)[1]
    row = jnp.asarray(tokens)[None]
    windows = Windows(row, row * 0, jnp.arange(row.size)[None])
    for transport in (True, False):
        found = lens.top_tokens(text, (0, LAST), 2, transport)
        for block in (0, LAST):
            hidden = lm.model.run_blocks(lm.model.embed(windows), windows, 0, block + 1)[0]
            moved = hidden @ lens.jacobian(block).T if transport else hidden
            order = np.argsort(-lm.model.log_probabilities(moved), axis=1)[:, :2]
            assert found[block] == [[labels[token] for token in two] for two in order]


def published(path, matrices):
    """Writes a lens of half precision as PyTorch does."""
    numbers = np.array([*matrices.values()], np.float16)
    shape = numbers.shape[1:]
    held = torch_files.storage("0", numbers.size, b"ctorch\nHalfStorage\n")
    entries = b"".join(
        torch_files.plain(block)
        + torch_files.tensor(i * numbers[0].size, shape, (shape[1], 1), held)
        for i, block in enumerate(matrices)
    )
    content = torch_files.state(J=b"}(" + entries + b"u", n_prompts=torch_files.plain(7))
    return torch_files.archive(path, content, numbers=numbers)


def test_a_published_lens_is_read(lm, tmp_path):
    matrices = {block: RNG.normal(size=(DIM, DIM)).astype(np.float16) for block in range(LAST)}
    found = open_lens(published(tmp_path / "tiny_jacobian_lens.pt", matrices), lm)
    assert (found.windows, [*found.jacobians], found.errors) == (7, [*range(LAST)], {})
    np.testing.assert_array_equal(found.jacobian(1), matrices[1].astype(np.float32))
    assert found.jacobian(1).dtype == np.float32
    np.testing.assert_array_equal(found.jacobian(LAST), np.eye(DIM))


REFUSED = {
    "no window": ({"windows": 0}, "windows must be an integer of at least 1"),
    "first": ({"first": -1}, "first must be an integer of at least 0"),
    "windows": ({"windows": 5}, "4 documents have 11 tokens, too few for 5 windows; give more"),
    "context": ({"context": 5}, "context must be an integer of at least 6"),
    "outliers": ({"outliers": "some"}, "outliers must be one of drop, keep"),
    "another text": ({"texts": Texts(TEXTS.texts[1:], TEXTS.names[1:], None)}, "lens of text"),
    "another context": ({"context": 12}, "lens of context 11, not 12; give that, or another"),
    "other outliers": ({"outliers": "keep"}, "lens of outliers drop, not keep; give that, or"),
    "another seed": ({"seed": 1}, "lens of seed 0, not 1; give that, or another folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted_is_said_in_a_sentence(lm, lens, folder, case):
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        given = {"texts": TEXTS, "folder": folder / "lens", "windows": 3} | OPTIONS | changes
        fit_lens(lm, **given)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_lenses_of_other_models_and_blocks_are_refused(lm, lens, folder, tmp_path):
    other = lm._replace(identity="0")
    square = np.zeros((DIM, DIM), np.float16)
    hole = np.where(np.arange(DIM) == 5, np.float16(np.nan), square)
    faults = {
        "holds a lens of identity .*, not 0; give that, or another folder": (
            folder / "lens",
            other,
        ),
        "holds no lens; give a folder that fit_lens wrote": (tmp_path, lm),
        "but tiny has 64 dimensions and 3 blocks; give a lens of this model": (
            published(tmp_path / "deep.pt", {LAST: square}),
            lm,
        ),
        r"shape \(9, 9\) for block 0": (
            published(tmp_path / "narrow.pt", {0: square[:9, :9]}),
            lm,
        ),
        "is not finite at block 0": (published(tmp_path / "nan.pt", {0: hole}), lm),
        r"cannot be read as a Jacobian lens \('J'\)": (
            torch_files.save(tmp_path / "sae.pt", {"w": square}),
            lm,
        ),
        "nowhere.pt is not a file": (tmp_path / "nowhere.pt", lm),
    }
    for message, arguments in faults.items():
        with pytest.raises(ValueError, match=message) as error:
            open_lens(*arguments)
        assert "\n" not in str(error.value)
    for block in (-1, LAST + 1):
        with pytest.raises(ValueError, match=f"the lens has no block {block}, but 0, 1; name"):
            lens.atoms(block)
        with pytest.raises(ValueError, match="a block must be an integer of at least 0"):
            lens.top_tokens("the", (block,))
    with pytest.raises(ValueError, match="all tokens of a window are outliers; raise context, or"):
        _of_window(loud(lm, 200), np.array([60, 61, 62, 200]), 3, True)
    with pytest.raises(ValueError, match="the text has no token; give one with letters"):
        lens.top_tokens("", (0,))
    content = (folder / "lens" / "lens.safetensors").read_bytes()
    (tmp_path / "lens.safetensors").write_bytes(content[:-9])
    with pytest.raises(ValueError, match=r"lens .* is damaged .*; remove it and fit again\.$"):
        open_lens(tmp_path, lm)

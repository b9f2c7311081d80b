"""A recording: the rows of every token in order, the same bytes after a kill, and what is
refused.
"""

import json

import numpy as np
import pytest

from sae_gap import open_activations
from sae_gap.lm import recording, windows
from sae_gap.lm.language_model import LanguageModel, Windows
from sae_gap.lm.recording import open_recording, record
from sae_gap.lm.texts import Texts
from sae_gap.storage.folder import Folder
from tests import tiny

WORDS = ["the", "cat", "in", "the", "hat", "sat", "on", "12", "mats", "near", "the", "inn"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny.tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    found = [" ".join(rng.choice(WORDS, count)) for count in (3, 30, 0, 9, 14, 1, 22)]
    return Texts(tuple(found), tuple(f"document {i}" for i in range(7)), tuple("abaabab"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(windows, "TOKENS", 32)
    monkeypatch.setattr(recording, "SHARD", 64)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def alone(lm, tokens, layer):
    """The residual stream of a window by itself, at the end of a row: positions and what is seen
    count from its start.
    """
    row, real = np.zeros((1, 16), np.int32), np.arange(16) >= 16 - len(tokens)
    row[0, real] = tokens
    own = Windows(
        row, np.where(real, 0, -1)[None], np.maximum(np.arange(16) - 16 + len(tokens), 0)[None]
    )
    return np.asarray(lm.model.run_blocks(lm.model.embed(own), own, 0, layer + 1))[0, real]


def test_each_row_is_that_of_its_token_in_its_own_window(lm, texts, tmp_path):
    found = record(lm, texts, tmp_path / "r", layers=(2, 0), context=16, dtype="float32")
    lists = lm.tokenise(texts.texts)
    # The document without a token is left out, and all others are whole.
    order = [texts.names.index(name) for name in found.names]
    assert sorted(order) == [0, 1, 3, 4, 5, 6]
    assert found.topics == tuple(texts.topics[i] for i in order)
    np.testing.assert_array_equal(found.tokens, np.concatenate([lists[i] for i in order]))
    np.testing.assert_array_equal(
        found.documents, np.repeat(np.arange(6), [len(lists[i]) for i in order])
    )
    assert len(list((tmp_path / "r" / "block2").glob("*.npy"))) > 4
    for layer in (0, 2):
        rows = open_activations(tmp_path / "r" / f"block{layer}")
        np.testing.assert_array_equal(rows.documents, found.documents)
        for place, i in enumerate(order):
            mine = np.flatnonzero(found.documents == place)
            parts = [lists[i][start : start + 16] for start in range(0, len(mine), 16)]
            np.testing.assert_array_equal(found.positions[mine], np.arange(len(mine)) % 16)
            expected = np.concatenate([alone(lm, part, layer) for part in parts])
            np.testing.assert_allclose(found.activations(layer).take(mine), expected, atol=2e-5)


def test_what_an_mlp_reads_and_adds_is_recorded(lm, texts, tmp_path):
    options = {"context": 16, "dtype": "float32"}
    record(lm, texts, tmp_path / "r", layers=(0,), **options)
    # Added to a recording that stands.
    found = record(lm, texts, tmp_path / "r", layers=(0, 1), mlps=(1,), **options)
    assert (found.layers, found.mlps) == ((0, 1), (1,))
    read, added = (part.take(np.arange(len(found.tokens))) for part in found.mlp(1))
    gate, up, down = (
        np.asarray(getattr(lm.model.blocks, name)[1], float) for name in ("gate", "up", "down")
    )
    hidden = read @ gate
    np.testing.assert_allclose(
        added, hidden / (1 + np.exp(-hidden)) * (read @ up) @ down, atol=1e-5
    )
    # What it reads is normalised, with the norm's weights.
    scale = np.asarray(lm.model.blocks.mlp_norm[1])
    np.testing.assert_allclose(((read / scale) ** 2).mean(axis=1), 1, rtol=0.01)
    np.testing.assert_array_equal(
        read, open_activations(tmp_path / "r" / "mlp1_in").take(np.arange(len(read)))
    )
    for side, name in (("in", "model.layers.1.mlp.input"), ("out", "blocks.1.hook_mlp_out")):
        told = recording.origin_of(tmp_path / "r" / f"mlp1_{side}")
        assert told["hook_name"] == name
    with pytest.raises(
        ValueError, match=r"^the MLP of block 0 is not in .*; record it with mlps=0\.$"
    ):
        found.mlp(0)


def test_a_killed_run_goes_on_to_the_same_bytes(lm, texts, tmp_path, monkeypatch):
    options = {"layers": (0, 1), "context": 16}
    record(lm, texts, tmp_path / "whole", **options)
    whole, write = content(tmp_path / "whole"), Folder.write
    assert sum(name.startswith("block0") for name in whole) >= 6
    asked, run = [], LanguageModel.run_blocks

    def watched(*arguments):
        asked.append(arguments[3:])
        return run(*arguments)

    monkeypatch.setattr(LanguageModel, "run_blocks", watched)
    # Killed before each of its files in turn; what was written before stays, and is not written
    # again.
    for many in (1, 4, 8):
        left = [many]

        def killed(self, name, data, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            write(self, name, data)

        monkeypatch.setattr(Folder, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            record(lm, texts, tmp_path / str(many), **options)
        if many > 2:
            with pytest.raises(
                ValueError, match=r"has not ended; run the same `record` again to go on\.$"
            ):
                open_recording(tmp_path / str(many)).activations(1)
        monkeypatch.setattr(Folder, "write", write)
        record(lm, texts, tmp_path / str(many), **options)
        assert content(tmp_path / str(many)) == whole
    # Other pieces of the model might round otherwise.
    assert {*asked} == {(0, 1), (1, 2)}


def test_what_is_there_is_not_run_again_and_layers_are_added(lm, texts, tmp_path, monkeypatch):
    record(lm, texts, tmp_path, layers=(0,), context=16)
    before = content(tmp_path)
    found = record(lm, texts, tmp_path, layers=(1,), context=16)
    assert found.layers == (0, 1) and found.activations(1).num_samples == len(found.tokens)
    assert {
        name: data
        for name, data in content(tmp_path).items()
        if name in before and name != "recording.json"
    } == {name: data for name, data in before.items() if name != "recording.json"}
    monkeypatch.setattr(LanguageModel, "run_blocks", None)
    record(lm, texts, tmp_path, layers=(0, 1), context=16)


def test_at_most_so_many_tokens_of_whole_documents_in_an_order_that_the_seed_draws(
    lm, texts, tmp_path
):
    every = record(lm, texts, tmp_path / "every", layers=(0,), context=16)
    some = record(
        lm, texts, tmp_path / "some", layers=(0,), context=16, tokens=len(every.tokens) - 1
    )
    assert some.names == every.names[:-1]
    np.testing.assert_array_equal(some.tokens, every.tokens[: len(some.tokens)])
    other = record(lm, texts, tmp_path / "other", layers=(0,), context=16, seed=1)
    assert other.names != every.names and {*other.names} == {*every.names}


def test_a_text_that_comes_again_is_recorded_once(lm, texts, tmp_path):
    """Of two alike, one might be held out and the other learned from."""
    twice = Texts(tuple(text for text in texts.texts if text)[:3] * 2, tuple("abcdef"), None)
    found = record(lm, twice, tmp_path, layers=(0,), context=16)
    assert sorted("abcdef".index(name) % 3 for name in found.names) == [0, 1, 2]


def test_the_windows_of_documents_point_at_their_rows(lm, texts, tmp_path):
    found = record(lm, texts, tmp_path, layers=(0,), context=16)
    seen = []
    for batch, rows in found.batches([1, 3]):
        real = rows >= 0
        np.testing.assert_array_equal(
            np.asarray(batch.windows.tokens)[real], found.tokens[rows[real]]
        )
        np.testing.assert_array_equal(
            np.asarray(batch.windows.positions)[real], found.positions[rows[real]]
        )
        seen += rows[real].tolist()
    assert sorted(seen) == np.flatnonzero(np.isin(found.documents, [1, 3])).tolist()


def test_what_float16_cannot_hold_is_refused(lm, texts, tmp_path):
    # All beyond the negative end alone.
    embedding = -1e6 * abs(lm.model.embedding)
    loud = lm._replace(model=lm.model.__class__(**{**vars(lm.model), "embedding": embedding}))
    with pytest.raises(
        ValueError,
        match=r"^activations at block0 reach [\d,]+, beyond float16; record with dtype=float32\.$",
    ):
        record(loud, texts, tmp_path, layers=(0,), context=16)
    # To the same folder.
    record(loud, texts, tmp_path, layers=(0,), context=16, dtype="float32")
    loud = lm._replace(
        model=lm.model.__class__(**{**vars(lm.model), "embedding": lm.model.embedding * np.nan})
    )
    with pytest.raises(
        ValueError,
        match=r"^activations at block0 reach nan, beyond float32; give another model\.$",
    ):
        record(loud, texts, tmp_path / "nan", layers=(0,), context=16, dtype="float32")


def test_tokens_or_documents_of_other_rows_are_refused(lm, texts, tmp_path):
    """By documents rows are held out, so none may be taken for another."""
    found = record(lm, texts, tmp_path, layers=(0,), context=16)
    file = tmp_path / "block0" / "00001.npy"
    rows = file.read_bytes()
    file.write_bytes(rows[:-2] + bytes([rows[-2] ^ 1, rows[-1]]))
    message = r"recording .*00001\.npy is damaged \(its rows are not .*; remove it and record again"
    with pytest.raises(ValueError, match=message):
        found.activations(0)
    with pytest.raises(ValueError, match=r"00001\.npy is damaged: its rows are not those"):
        assert open_activations(tmp_path / "block0").fingerprint
    # As it says.
    file.unlink()
    record(lm, texts, tmp_path, layers=(0,), context=16).activations(0)
    assert file.read_bytes() == rows
    for file in (tmp_path / "block0").glob("*.documents.npy"):
        file.unlink()
    with pytest.raises(
        ValueError,
        match=r"damaged \(the documents of block0 are not those of its tokens\); remove it and",
    ):
        found.activations(0)
    about, tokens = tmp_path / "recording.json", tmp_path / "tokens.npz"
    told = about.read_text()
    with np.load(tokens) as file:
        arrays = dict(file)
    # Another context would cut other windows.
    for context, order in ((9, 1), (16, -1)):
        about.write_text(told.replace('context": 16', f'context": {context}'))
        np.savez(tokens, **arrays | {"tokens": arrays["tokens"][::order]})
        with pytest.raises(
            ValueError,
            match=r"damaged \(tokens\.npz is not what recording\.json tells\); remove it and",
        ):
            open_recording(tmp_path)


REFUSED = {
    "layer": ({"layers": (3,)}, "a layer must be an integer of at least 0 and of at most 2"),
    "context": ({"context": 65}, "context must be an integer of at least 2 and of at most 64"),
    "dtype": ({"dtype": "int8"}, "dtype must be one of float16, float32"),
    "few tokens": ({"tokens": 1}, "has 7 tokens; raise tokens to as many"),
    "another context": (
        {"context": 8},
        "another recording, of context 16, not 8; remove it or choose another folder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_said_in_a_sentence(lm, texts, tmp_path_factory, case):
    changes, message = REFUSED[case]
    folder = tmp_path_factory.getbasetemp() / "refused"
    record(lm, texts, folder, layers=(0,), context=16)
    texts = Texts(texts.texts[:1], texts.names[:1], None) if case == "few tokens" else texts
    before = content(folder)
    with pytest.raises(ValueError, match=message) as error:
        record(lm, texts, folder, **{"layers": (0,), "context": 16, **changes})
    assert "\n" not in str(error.value) and content(folder) == before


def test_texts_without_tokens_and_folders_without_a_recording_are_refused(lm, texts, tmp_path):
    with pytest.raises(ValueError, match=r"^no document has a token; give documents with text\.$"):
        record(lm, Texts(("",), ("empty",), None), tmp_path, layers=(0,), context=16)
    with pytest.raises(
        ValueError, match=r"holds no recording\.json; give a folder that record wrote\.$"
    ):
        open_recording(tmp_path)
    for about in ("{", "[]", json.dumps({"model": "x"}), json.dumps({"layers": [0]})):
        (tmp_path / "recording.json").write_text(about)
        for do in (open_recording, lambda folder: record(lm, texts, folder, (0,), context=16)):
            with pytest.raises(ValueError, match=r"is damaged .*; remove it and record again\.$"):
                do(tmp_path)
    # Rows may be those of another model.
    (tmp_path / "recording.json").unlink()
    (tmp_path / "block0").mkdir()
    with pytest.raises(ValueError, match=r"holds rows but no recording\.json that says of what; "):
        record(lm, texts, tmp_path, (0,), context=16)

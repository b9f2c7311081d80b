"""A recording: the rows of every token in order, the same bytes after a kill, and what is
refused.
"""

import json

import numpy as np
import pytest

from sae_gap import open_activations
from sae_gap.lm import LanguageModel, Texts, Windows, open_recording, origin_of
from sae_gap.storage import Folder


def content(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def alone(lm, tokens, layer):
    """The residual stream of a window by itself, at the end of a row: positions and what is seen
    count from its start.
    """
    row, real = np.zeros((1, 16), np.int32), np.arange(16) >= 16 - len(tokens)
    row[0, real] = tokens
    places = np.maximum(np.arange(16) - 16 + len(tokens), 0)
    one = Windows(row, np.where(real, 0, -1)[None], places[None])
    return np.asarray(lm.model.run_blocks(lm.model.embed(one), one, 0, layer + 1))[0, real]


def test_each_row_is_that_of_its_token_in_its_own_window(lm, texts, write, tmp_path):
    found = write(layers=(2, 0), dtype="float32")
    lists = lm.tokenise(texts.texts)
    # The document without a token is left out, and all others are whole.
    order = [texts.names.index(name) for name in found.names]
    assert sorted(order) == [0, 1, 3, 4, 5, 6]
    assert found.topics == tuple(texts.topics[i] for i in order)
    np.testing.assert_array_equal(found.tokens, np.concatenate([lists[i] for i in order]))
    sizes = [len(lists[i]) for i in order]
    np.testing.assert_array_equal(found.documents, np.repeat(np.arange(6), sizes))
    shards = [len(np.load(file)) for file in sorted((tmp_path / "r/block2").glob("?????.npy"))]
    assert len(shards) > 2 and 32 < max(shards) <= 64
    for layer in (0, 2):
        rows = open_activations(tmp_path / "r" / f"block{layer}")
        np.testing.assert_array_equal(rows.documents, found.documents)
        for place, i in enumerate(order):
            mine = np.flatnonzero(found.documents == place)
            parts = [lists[i][start : start + 16] for start in range(0, len(mine), 16)]
            np.testing.assert_array_equal(found.positions[mine], np.arange(len(mine)) % 16)
            expected = np.concatenate([alone(lm, part, layer) for part in parts])
            np.testing.assert_allclose(found.activations(layer).take(mine), expected, atol=2e-5)
    # The windows of some documents point at their rows.
    seen = []
    for batch, rows in found.batches([1, 3]):
        real = rows >= 0
        for name in ("tokens", "positions"):
            values = np.asarray(getattr(batch.windows, name))[real]
            np.testing.assert_array_equal(values, getattr(found, name)[rows[real]])
        seen += rows[real].tolist()
    assert sorted(seen) == np.flatnonzero(np.isin(found.documents, [1, 3])).tolist()
    with pytest.raises(ValueError, match=r"block 1 is not in .*, but 0, 2; record it"):
        found.activations(1)


def test_what_an_mlp_reads_and_adds_is_recorded(lm, write, tmp_path):
    first = write(mlps=(0,), dtype="float32")
    # Added to a recording that stands.
    found = write(layers=(1,), mlps=(1,), dtype="float32")
    assert (found.layers, found.mlps) == ((0, 1), (0, 1))
    read, added = (part.take(np.arange(len(found.tokens))) for part in found.mlp(1))
    blocks = lm.model.blocks
    gate, up, down = (
        np.asarray(getattr(blocks, name)[1], float) for name in ("gate", "up", "down")
    )
    hidden = read @ gate
    swish = hidden / (1 + np.exp(-hidden))
    np.testing.assert_allclose(added, swish * (read @ up) @ down, atol=1e-5)
    # What it reads is normalised, with the norm's weights.
    scale = np.asarray(blocks.mlp_norm[1])
    np.testing.assert_allclose(((read / scale) ** 2).mean(axis=1), 1, rtol=0.01)
    with pytest.raises(ValueError, match=r"^the MLP of block 1 is not in .*record it with mlps=1"):
        first.mlp(1)


HOOKS = {
    "block0": "blocks.0.hook_resid_post",
    "mlp1_in": "model.layers.1.mlp.input",
    "mlp1_out": "blocks.1.hook_mlp_out",
}


def test_an_sae_is_told_what_its_activations_are_of(lm, write, tmp_path):
    found = write()
    about = json.loads((tmp_path / "r/recording.json").read_text())
    told = {"model_name": "tiny", "context_size": 16, "recorded_tokens": len(found.tokens)}
    for name, hook in HOOKS.items():
        expected = told | {"hook_name": hook, "text": about["text"]}
        assert origin_of(tmp_path / "r" / name) == expected
    assert origin_of(tmp_path / "r/other") == origin_of(tmp_path / "block0") == {}
    found.require(lm)
    with pytest.raises(ValueError, match="is of another model than tiny; give that of tiny"):
        found.require(lm._replace(identity="other"))


def test_a_killed_run_goes_on_to_the_same_bytes(write, tmp_path, monkeypatch):
    write("whole", layers=(0, 1))
    whole, plain, asked = content(tmp_path / "whole"), Folder.write, []
    run = LanguageModel.run_blocks

    def watched(*arguments):
        asked.append(arguments[3:])
        return run(*arguments)

    monkeypatch.setattr(LanguageModel, "run_blocks", watched)
    for many in (1, 4, 8):
        left = [many]

        def killed(self, name, data, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            plain(self, name, data)

        monkeypatch.setattr(Folder, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            write(str(many), layers=(0, 1))
        if many > 2:
            with pytest.raises(ValueError, match="has not ended; run the same `record` again"):
                open_recording(tmp_path / str(many)).activations(1)
        monkeypatch.setattr(Folder, "write", plain)
        write(str(many), layers=(0, 1))
        assert content(tmp_path / str(many)) == whole
    # Other pieces of the model might round otherwise.
    assert {*asked} == {(0, 1), (1, 2)}
    # What is there is not run again, and layers are added to it.
    monkeypatch.setattr(LanguageModel, "run_blocks", None)
    write("whole", layers=(0, 1))
    monkeypatch.setattr(LanguageModel, "run_blocks", run)
    assert write("whole", layers=(2,)).layers == (0, 1, 2)
    after = content(tmp_path / "whole")
    assert all(after[name] == whole[name] for name in whole if name != "recording.json")


def test_at_most_so_many_tokens_of_whole_documents_in_an_order_that_the_seed_draws(write):
    every = write()
    for less, left in ((0, 6), (1, 5)):
        some = write(f"less{less}", tokens=len(every.tokens) - less)
        assert some.names == every.names[:left]
        np.testing.assert_array_equal(some.tokens, every.tokens[: len(some.tokens)])
    other = write("other", seed=1)
    assert other.names != every.names and {*other.names} == {*every.names}


@pytest.mark.parametrize(
    ("reach", "dtype", "words"),
    [
        (65_504, "float16", ""),
        (65_600, "float16", r"activations at block0 reach 65,600, beyond float16; record with dt"),
        (65_600, "float32", ""),
        (np.nan, "float32", "activations at block0 reach nan, beyond float32; give another model"),
    ],
)
def test_what_a_type_cannot_hold_is_refused(lm, write, reach, dtype, words, monkeypatch):
    """All beyond the negative end alone."""

    def run(self, hidden, *_):
        return 0 * hidden - reach

    monkeypatch.setattr(LanguageModel, "run_blocks", run)
    if not words:
        assert write(dtype=dtype).activations(0).take(np.arange(3)).min() == -reach
    else:
        with pytest.raises(ValueError, match=words):
            write(dtype=dtype)


def test_tokens_or_documents_of_other_rows_are_refused(write, tmp_path):
    """By documents rows are held out, so none may be taken for another."""
    found = write()
    file = tmp_path / "r/block0/00001.npy"
    rows = file.read_bytes()
    file.write_bytes(rows[:-2] + bytes([rows[-2] ^ 1, rows[-1]]))
    with pytest.raises(ValueError, match=r"00001\.npy is damaged \(its rows are not those"):
        found.activations(0)
    # As it says.
    file.unlink()
    write().activations(0)
    assert file.read_bytes() == rows
    for file in (tmp_path / "r/block0").glob("*.documents.npy"):
        file.unlink()
    with pytest.raises(ValueError, match=r"damaged \(the documents of block0 are not those"):
        found.activations(0)
    about, tokens = tmp_path / "r/recording.json", tmp_path / "r/tokens.npz"
    told = about.read_text()
    with np.load(tokens) as file:
        arrays = dict(file)
    about.write_text(told.replace('"form": 2', '"form": 1'))
    with pytest.raises(ValueError, match="is of form 1, not 2"):
        open_recording(tmp_path / "r")
    # Another context would cut other windows.
    for context, order in ((9, 1), (16, -1)):
        about.write_text(told.replace('context": 16', f'context": {context}'))
        np.savez(tokens, **arrays | {"tokens": arrays["tokens"][::order]})
        with pytest.raises(ValueError, match=r"damaged \(tokens\.npz is not what recording\.json"):
            open_recording(tmp_path / "r")


REFUSED = {
    "a layer must be an integer of at least 0 and of at most 2": {"layers": (3,)},
    "a layer must be": {"mlps": (-1,)},
    "context must be an integer of at least 2 and of at most 64": {"context": 65},
    "dtype must be one of float16, float32": {"dtype": "int8"},
    "tokens; raise tokens to as many": {"tokens": 1, "texts": Texts(("the hats",), "a", None)},
    "another recording, of context 16, not 8; remove it": {"context": 8},
    "no document has a token; give documents with text": {"texts": Texts(("",), "a", None)},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit_is_said_in_a_sentence(write, tmp_path, words):
    if "context" in words:
        write()
    before = content(tmp_path)
    with pytest.raises(ValueError, match=words):
        write(**REFUSED[words])
    assert content(tmp_path) == before


def test_folders_without_a_recording_are_refused(write, tmp_path):
    (tmp_path / "r/block0").mkdir(parents=True)
    # Rows may be those of another model.
    with pytest.raises(ValueError, match=r"holds rows but no recording\.json that says of what; "):
        write()
    with pytest.raises(ValueError, match=r"holds no recording\.json; give a folder that record"):
        open_recording(tmp_path / "r")
    for about in ("{", "[]", json.dumps({"model": "x"})):
        (tmp_path / "r/recording.json").write_text(about)
        for do in (lambda: open_recording(tmp_path / "r"), write):
            with pytest.raises(ValueError, match=r"is damaged .*; remove it and record again"):
                do()

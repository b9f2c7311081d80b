"""Windows and recordings: the rows of every token in order, the same bytes after a kill, what is
refused, and what runs on a network again.
"""

import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import fixture, mark, raises

from sae_gap import open_activations
from sae_gap.data import HeldOut
from sae_gap.lm import (
    LanguageModel,
    OnNetwork,
    Texts,
    Windows,
    cut,
    open_recording,
    origin_of,
    pack,
    windows,
)
from sae_gap.storage import Folder


def test_every_token_is_in_one_window_of_its_document_and_few_places_are_empty(
    monkeypatch,
):
    monkeypatch.setattr(windows, "TOKENS", 128)
    rng = default_rng(0)
    sizes = (0, 1, 31, 32, 33, *rng.integers(2, 200, 40))
    lists = [rng.integers(1, 100, size).astype(np.int32) for size in sizes]
    batches = list(pack(cut(lists, 32), 32))
    seen = []
    for batch in batches:
        tokens, segments, positions = map(np.asarray, vars(batch.windows).values())
        assert tokens.shape == (4, 32)
        for row, segment in {*zip(*np.nonzero(segments >= 0), strict=True)}:
            mine = row, segments[row] == segments[row, segment]
            (document,) = {*batch.documents[mine]}
            places = batch.places[mine]
            assert_array_equal(places, positions[mine] + places[0])
            assert_array_equal(positions[mine], np.arange(len(places)))
            assert_array_equal(tokens[mine], lists[document][places])
            seen.append((document, places[0]))
    wanted = [
        (i, at) for i, tokens in enumerate(lists) for at in range(0, len(tokens), 32)
    ]
    assert sorted({*seen}) == wanted and len(seen) == sum(sizes)
    assert 128 * len(batches) < 1.02 * sum(sizes)
    # Of as few rows as hold them.
    for count, rows in {1: [1], 5: [3, 3], 12: [4, 4, 4], 0: []}.items():
        whole = cut([np.ones(32, np.int32)] * count, 32)
        assert [len(batch.documents) for batch in pack(whole, 32)] == rows


def content(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def alone(lm, tokens, layer):
    """The residual stream of a window by itself, at the end of a row: positions and what is seen
    count from its start.
    """
    row = np.zeros((1, 16), np.int32)
    real = np.arange(16) >= 16 - len(tokens)
    row[0, real] = tokens
    places = np.maximum(np.arange(16) - 16 + len(tokens), 0)
    one = Windows(row, np.where(real, 0, -1)[None], places[None])
    return np.asarray(lm.model.run_blocks(lm.model.embed(one), one, 0, layer + 1))[
        0, real
    ]


def test_each_row_is_that_of_its_token_in_its_own_window(lm, texts, write, tmp_path):
    found = write(layers=(2, 0), dtype="float32")
    lists = lm.tokenise(texts.texts)
    # The document without a token is left out, and all others are whole.
    order = [texts.names.index(name) for name in found.names]
    assert sorted(order) == [0, 1, 3, 4, 5, 6]
    assert found.topics == tuple(texts.topics[i] for i in order)
    assert_array_equal(found.tokens, np.concatenate([lists[i] for i in order]))
    sizes = [len(lists[i]) for i in order]
    assert_array_equal(found.documents, np.repeat(np.arange(6), sizes))
    places = np.concatenate([*map(np.arange, sizes)])
    assert_array_equal(found.positions, places % 16)
    shards = [
        len(np.load(file)) for file in sorted((tmp_path / "r/block2").glob("?????.npy"))
    ]
    assert len(shards) > 2 and 32 < max(shards) <= 64
    starts = np.append(np.flatnonzero(found.positions == 0), len(places))
    for layer in (0, 2):
        rows = open_activations(tmp_path / "r" / f"block{layer}")
        assert_array_equal(rows.documents, found.documents)
        expected = [
            alone(lm, part, layer) for part in np.split(found.tokens, starts[1:-1])
        ]
        rows = found.activations(layer).take(np.arange(len(places)))
        assert_allclose(rows, np.concatenate(expected), atol=2e-5)
    for batch in found.batches([1, 3]):
        real = batch.documents >= 0
        firsts = np.searchsorted(found.documents, batch.documents[real])
        rows = firsts + batch.places[real]
        assert_array_equal(np.asarray(batch.windows.tokens)[real], found.tokens[rows])
        assert {*batch.documents[real]} <= {1, 3}
    with raises(ValueError, match=r"block1 is not in .*, but that of 0, 2; record it"):
        found.activations(1)


def test_what_an_mlp_reads_and_adds_is_recorded(lm, write):
    write(mlps=(0,), dtype="float32")
    # Added to a recording that stands.
    found = write(layers=(1,), mlps=(1,), dtype="float32")
    assert (found.layers, found.mlps) == ((0, 1), (0, 1))
    read, added = (part.take(np.arange(len(found.tokens))) for part in found.mlp(1))
    blocks = lm.model.blocks
    gate, up = (read @ np.asarray(part[1], float) for part in (blocks.gate, blocks.up))
    wanted = gate / (1 + np.exp(-gate)) * up @ blocks.down[1]
    assert_allclose(added, wanted, atol=1e-5)
    # What it reads is normalised, with the norm's weights.
    assert_allclose(((read / blocks.mlp_norm[1]) ** 2).mean(axis=1), 1, rtol=0.01)


@mark.parametrize(
    ("place", "hook"),
    [
        ("block0", "blocks.0.hook_resid_post"),
        ("mlp1_in", "model.layers.1.mlp.input"),
        ("mlp1_out", "blocks.1.hook_mlp_out"),
    ],
)
def test_an_sae_is_told_what_its_activations_are_of(write, tmp_path, place, hook):
    assert origin_of(tmp_path / "r" / place) == {}
    tokens = len(write().tokens)
    told = origin_of(tmp_path / "r" / place)
    assert (told["model_name"], told["hook_name"]) == ("tiny", hook)
    assert told["recorded_tokens"] == tokens


def test_a_killed_run_goes_on_to_the_same_bytes(write, tmp_path, monkeypatch):
    write("whole", layers=(0, 1))
    whole = content(tmp_path / "whole")
    plain = Folder.write
    left = []

    def killed(self, name, data):
        left.pop()
        plain(self, name, data)

    for many in (1, 4, 8):
        left[:] = range(many)
        with monkeypatch.context() as patch, raises(IndexError):
            patch.setattr(Folder, "write", killed)
            write(str(many), layers=(0, 1))
        if many > 2:
            with raises(ValueError, match="has not ended; run the same `record` again"):
                open_recording(tmp_path / str(many)).activations(1)
        write(str(many), layers=(0, 1))
        assert content(tmp_path / str(many)) == whole
    # What is there is not run again, and layers are added to it.
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "run_blocks", None)
        write("whole", layers=(0, 1))
    assert write("whole", layers=(2,)).layers == (0, 1, 2)
    after = content(tmp_path / "whole")
    assert all(after[name] == whole[name] for name in whole if name != "recording.json")


def test_at_most_so_many_tokens_of_whole_documents_in_an_order_that_the_seed_draws(
    write,
):
    every = write()
    for less, left in ((0, 6), (1, 5)):
        found = write(f"less{less}", tokens=len(every.tokens) - less)
        assert found.names == every.names[:left]
    other = write("other", seed=1)
    assert other.names != every.names and {*other.names} == {*every.names}


@mark.parametrize(
    ("reach", "dtype", "words"),
    [
        (65_504, "float16", ""),
        (
            65_600,
            "float16",
            r"activations at block0 reach 65,600, beyond float16; record with dt",
        ),
        (
            np.nan,
            "float32",
            "activations at block0 reach nan, beyond float32; give another model",
        ),
    ],
)
def test_what_a_type_cannot_hold_is_refused(write, reach, dtype, words, monkeypatch):
    """All beyond the negative end alone."""
    monkeypatch.setattr(
        LanguageModel, "run_blocks", lambda _, hidden, *__: 0 * hidden - reach
    )
    if not words:
        assert write(dtype=dtype).activations(0).take(np.arange(3)).min() == -reach
    else:
        with raises(ValueError, match=words):
            write(dtype=dtype)


def test_tokens_or_documents_of_other_rows_are_refused(write, tmp_path):
    """By documents rows are held out, so none may be taken for another."""
    found = write()
    file = tmp_path / "r/block0/00001.npy"
    rows = file.read_bytes()
    file.write_bytes(rows[:-1] + bytes([rows[-1] ^ 1]))
    with raises(ValueError, match=r"00001\.npy is damaged \(its rows are not those"):
        found.activations(0)
    # As it says.
    file.unlink()
    write().activations(0)
    assert file.read_bytes() == rows
    for file in (tmp_path / "r/block0").glob("*.documents.npy"):
        file.unlink()
    with raises(ValueError, match=r"damaged \(the documents of block0 are not those"):
        found.activations(0)
    about = tmp_path / "r/recording.json"
    tokens = tmp_path / "r/tokens.npz"
    told = about.read_text()
    with np.load(tokens) as file:
        arrays = dict(file)
    # Another context would cut other windows.
    for old, new, order in (
        ('m": 2', 'm": 1', 1),
        ('t": 16', 't": 9', 1),
        ("{", "{", -1),
    ):
        about.write_text(told.replace(old, new))
        np.savez(tokens, **arrays | {"tokens": arrays["tokens"][::order]})
        with raises(ValueError, match=r"is damaged .*; remove it and record again"):
            open_recording(tmp_path / "r")
    about.unlink()
    # Rows may be those of another model.
    with raises(
        ValueError, match=r"holds rows but no recording\.json that says of what; "
    ):
        write()
    with raises(
        ValueError, match=r"holds no recording\.json; give a folder that record"
    ):
        open_recording(tmp_path / "r")


REFUSED = {
    "a layer must be an integer of at least 0 and of at most 2": {"layers": (3,)},
    "a layer must be": {"mlps": (-1,)},
    "context must be an integer of at least 2 and of at most 64": {"context": 65},
    "dtype must be one of float16, float32": {"dtype": "int8"},
    "tokens; raise tokens to as many": {
        "tokens": 1,
        "texts": Texts(("the hats",), "a", None),
    },
    "another recording, of context 16, not 8; remove it": {"context": 8},
    "no document has a token; give documents with text": {
        "texts": Texts(("",), "a", None)
    },
}


@mark.parametrize("words", REFUSED)
def test_what_does_not_fit_is_said_in_a_sentence(write, tmp_path, words):
    if "context" in words:
        write()
    before = content(tmp_path)
    with raises(ValueError, match=words):
        write(**REFUSED[words])
    assert content(tmp_path) == before


@fixture
def source(gemma, write):
    """Twelve documents of a Gemma, each of which begins with a special token."""
    texts = Texts(
        tuple("the hat " * (i % 5 + 1) + "mat" * i for i in range(12)),
        "abcdefghijkl",
        None,
    )
    recorded = write(lm=gemma, texts=texts, layers=(1,), mlps=(1,), dtype="float32")

    def source(part="stream", **options):
        inputs, y = (
            recorded.mlp(1) if part == "mlp" else (None, recorded.activations(1))
        )
        rows = HeldOut(y, width=9, held_out=0.4, split_seed=0, inputs=inputs)
        return OnNetwork(
            recorded, gemma, 1, rows, **{"tokens": 20, "first": 2} | options
        )

    return source


def test_as_many_whole_documents_run_as_the_tokens_fill(source):
    found = source(tokens=10_000)
    for part, rows in enumerate(found.rows.parts):
        drawn = found.documents(part)
        documents = found.recorded.documents
        assert sorted(drawn) == sorted({*documents[rows.numbers]})
        two = np.isin(documents, drawn[:2]).sum()
        # Just as many, and one more.
        for tokens, count in ((two - 1, 2), (two, 2), (two + 1, 3)):
            assert source(tokens=tokens).documents(part) == drawn[:count]
    assert source(tokens=10_000, documents_seed=1).documents(0) != found.documents(0)


@mark.parametrize("part", ["stream", "mlp"])
def test_the_rows_to_score_are_those_that_are_replaced(source, part, monkeypatch):
    found = source(part, seed=3)
    net = found.network
    task = found.task()
    assert (task.width, task.seed, task.network) == (9, 3, net)
    documents = found.recorded.documents
    rows = np.flatnonzero(np.isin(documents, found.documents()))
    whole = found.rows.activations.take(rows)
    assert_allclose(np.sort(task.id.signals, 0), np.sort(whole, 0), atol=1e-4)
    assert (task.id.inputs is None) == (part == "stream")
    # All but the special token of each window count, and means leave out its first two places.
    windows = (found.recorded.positions[rows] == 0).sum()
    assert (~task.id.counts).sum() == windows and task.id.counts is net.replaced
    sizes = np.unique(documents[rows], return_counts=True)[1]
    assert net.scored.sum() == (sizes - 3 * np.ceil(sizes / 16)).clip(0).sum()
    monkeypatch.setattr(
        OnNetwork, "network_on", lambda _, documents: of.append(documents) or net
    )
    of = []
    net.information()
    net.information()
    assert of == [found.documents(part=0)]

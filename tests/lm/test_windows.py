"""Windows: every token once, in one shape, and few places wasted."""

import numpy as np

from sae_gap.lm import windows
from sae_gap.lm.windows import cut, pack


def test_every_token_is_in_one_window_of_its_document_and_few_places_are_empty(monkeypatch):
    monkeypatch.setattr(windows, "TOKENS", 128)
    rng = np.random.default_rng(0)
    lists = [
        rng.integers(1, 100, length).astype(np.int32)
        for length in (0, 1, 31, 32, 33, *rng.integers(2, 200, 40))
    ]
    batches, seen = list(pack(cut(lists, 32), 32)), set()
    for batch in batches:
        own, documents, places = batch.windows, batch.documents, batch.places
        assert documents.shape == places.shape == own.tokens.shape == (4, 32)
        real = documents >= 0
        np.testing.assert_array_equal(np.asarray(own.segments) >= 0, real)
        np.testing.assert_array_equal(np.asarray(own.positions)[real], places[real] % 32)
        for row in range(4):
            # Those that share a segment are one window.
            keys = [*zip(documents[row][real[row]], places[row][real[row]] // 32, strict=True)]
            segments = np.asarray(own.segments)[row][real[row]].tolist()
            assert len({*zip(keys, segments, strict=True)}) == len({*keys}) == len({*segments})
        found = [*zip(documents[real].tolist(), places[real].tolist(), strict=True)]
        assert not seen & {*found}
        seen |= {*found}
        np.testing.assert_array_equal(
            np.asarray(own.tokens)[real], [lists[document][place] for document, place in found]
        )
    assert len(seen) == sum(map(len, lists))
    assert 128 * len(batches) < 1.02 * len(seen)


def test_batches_have_one_shape_of_as_few_rows_as_hold_them(monkeypatch):
    monkeypatch.setattr(windows, "TOKENS", 128)
    whole = [np.ones(32, np.int32)]
    shapes = {
        count: [batch.documents.shape[0] for batch in pack(cut(whole * count, 32), 32)]
        for count in (1, 4, 5, 9, 12)
    }
    assert shapes == {1: [1], 4: [4], 5: [3, 3], 9: [3, 3, 3], 12: [4, 4, 4]}
    assert list(pack([], 32)) == []

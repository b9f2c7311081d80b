"""Windows: every token once, in one shape, and few places wasted."""

import numpy as np

from sae_gap.lm import cut, pack, windows


def test_every_token_is_in_one_window_of_its_document_and_few_places_are_empty(monkeypatch):
    monkeypatch.setattr(windows, "TOKENS", 128)
    rng = np.random.default_rng(0)
    sizes = (0, 1, 31, 32, 33, *rng.integers(2, 200, 40))
    lists = [rng.integers(1, 100, size).astype(np.int32) for size in sizes]
    batches, seen = list(pack(cut(lists, 32), 32)), []
    for batch in batches:
        real = batch.documents >= 0
        tokens, segments, positions = map(np.asarray, vars(batch.windows).values())
        assert real.shape == tokens.shape == (4, 32)
        np.testing.assert_array_equal(segments >= 0, real)
        np.testing.assert_array_equal(positions[real], batch.places[real] % 32)
        row = np.arange(4)[:, None] + 0 * tokens
        parts = row, segments, batch.documents, batch.places // 32, tokens, batch.places
        found = [*zip(*(part[real].tolist() for part in parts), strict=True)]
        # Those that share a segment are one window.
        windows_of, segments_of = {each[2:4] for each in found}, {each[:2] for each in found}
        assert len({each[:4] for each in found}) == len(windows_of) == len(segments_of)
        assert all(lists[each[2]][each[5]] == each[4] for each in found)
        seen += [(each[2], each[5]) for each in found]
    assert len(seen) == len({*seen}) == sum(map(len, lists))
    assert 128 * len(batches) < 1.02 * len(seen)


def test_batches_have_one_shape_of_as_few_rows_as_hold_them(monkeypatch):
    monkeypatch.setattr(windows, "TOKENS", 128)
    whole = [np.ones(32, np.int32)]
    shapes = {1: [1], 4: [4], 5: [3, 3], 9: [3, 3, 3], 12: [4, 4, 4], 0: []}
    for count, expected in shapes.items():
        assert [len(batch.documents) for batch in pack(cut(whole * count, 32), 32)] == expected

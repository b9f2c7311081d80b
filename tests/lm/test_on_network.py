"""Which documents run through the network, which rows are scored, and which cost errors are of."""

import numpy as np
import pytest

from sae_gap.core import Task
from sae_gap.data import HeldOut
from sae_gap.lm import Downstream, OnNetwork, Texts


@pytest.fixture
def source(gemma, write):
    """Twelve documents of a Gemma, each of which begins with a special token."""
    texts = Texts(
        tuple("the hat " * (i % 5 + 1) + "mat" * i for i in range(12)), "abcdefghijkl", None
    )
    recorded = write(lm=gemma, texts=texts, layers=(1,), mlps=(1,), dtype="float32")

    def source(part="stream", keep=True, **options):
        inputs, y = recorded.mlp(1) if part == "mlp" else (None, recorded.activations(1))
        rows = HeldOut(y, width=9, keep_outliers=keep, held_out=0.4, split_seed=0, inputs=inputs)
        return OnNetwork(recorded, gemma, 1, rows, **{"tokens": 20, "first": 2} | options)

    return source


def test_as_many_whole_documents_run_as_the_tokens_fill(source):
    found = source()
    sizes = np.bincount(found.recorded.documents)
    held, trained = (set(found.recorded.documents[part.numbers]) for part in found.rows.parts[::-1])
    assert held and trained and not held & trained
    for part, members in ((1, held), (0, trained)):
        drawn = source(tokens=10_000).documents(part)
        assert {*drawn} == members and len(drawn) == len(members)
        two = sizes[drawn[:2]].sum()
        # Just as many, and one more.
        for tokens, count in ((two - 1, 2), (two, 2), (two + 1, 3)):
            assert source(tokens=tokens).documents(part) == drawn[:count]
    assert source(tokens=10_000, documents_seed=1).documents(0) != source(tokens=10_000).documents(
        0
    )


@pytest.mark.parametrize("part", ["stream", "mlp"])
def test_the_rows_to_score_are_those_that_are_replaced(source, part, monkeypatch):
    found = source(part, seed=3)
    net, task = found.network, found.task()
    assert isinstance(task, Task) and (task.width, task.seed, task.network) == (9, 3, net)
    numbers = found.documents()
    rows = np.concatenate([np.flatnonzero(found.recorded.documents == each) for each in numbers])
    whole = found.rows.activations.take(np.sort(rows))
    np.testing.assert_allclose(np.sort(task.id.signals, 0), np.sort(whole, 0), atol=1e-4)
    assert (task.id.inputs is None) == (part == "stream")
    sizes = np.bincount(found.recorded.documents)[numbers]
    assert sorted(np.bincount(task.id.documents)) == sorted(sizes)
    # All but the special token of each window count, and means leave out its first two places.
    windows = np.ceil(sizes / 16).sum()
    assert (~task.id.counts).sum() == windows and task.id.counts is net.replaced
    assert net.scored.sum() == (sizes - 3 * np.ceil(sizes / 16)).clip(0).sum()
    of = []
    monkeypatch.setattr(OnNetwork, "network_on", lambda _, documents: of.append(documents) or net)
    np.testing.assert_array_equal(net.information(), net.sensitivity())
    net.information()
    assert of == [found.documents(part=0)]


@pytest.mark.parametrize(("keep", "outliers"), [(True, "keep"), (False, "drop")])
def test_outlier_tokens_are_replaced_if_rows_keep_them(source, keep, outliers, monkeypatch):
    asked = {}

    def stop(*_, **options):
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Downstream, "of_model", stop)
    with pytest.raises(KeyboardInterrupt):
        source(keep=keep).network_on([0])
    assert (asked["outliers"], asked["special"], asked["first"]) == (outliers, [0, 1, 2], 2)

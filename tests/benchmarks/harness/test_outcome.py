"""What a page shows of a metric that was dropped in, and which dictionaries its figures tell
apart.
"""

import pytest

from benchmarks.harness import outcome
from benchmarks.harness.drawings import Drawing
from sae_gap import catalogue
from sae_gap.core.registry import Column
from sae_gap.figures import labels, tables
from sae_gap.metrics.metric import Metric

SIZES = {"sparsity": 3, "num_samples": 200, "seed": 0}


@pytest.fixture
def dropped(monkeypatch):
    column = Column("effective number of latents", heading="effective L0")
    metric = Metric("effective", lambda inferred: {}, {"effective": column})
    known = catalogue.metrics()
    monkeypatch.setattr(catalogue, "metrics", lambda: known | {"effective": metric})
    labels._metrics.cache_clear()
    yield
    labels._metrics.cache_clear()


def test_a_metric_brings_its_label_to_tables_and_figures(dropped):
    rows = [
        {
            "method": "sae_topk",
            "dictionary": "topk",
            "inference": "own",
            "num_latents": latents,
            "effective_id": 2.0,
        }
        | SIZES
        for latents in (20, 30)
    ]
    summary = tables.summarise(rows)
    assert outcome._unlisted(summary) == ["effective_id"]
    assert outcome._headings(["effective_id", "effective_ood"], summary) == {
        "effective_id": "effective L0 ID"
    }
    assert outcome._headings(["effective_id"], summary) == {"effective_id": "effective L0"}
    figure = Drawing("curve", {"x": "num_latents", "y": "effective_id"}).draw(rows, [])
    words = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any("effective number of latents" in text for text in words)


def test_a_crossing_of_a_shared_dictionary_is_drawn_apart():
    own, crossed, alone = (
        {"method": method, "dictionary": dictionary, "inference": inference}
        for method, dictionary, inference in (
            ("sae_topk", "topk", "own"),
            ("topk:omp", "topk", "omp"),
            ("oracle:omp", "oracle", "omp"),
        )
    )
    found = outcome._told_apart([own, crossed, alone], {"sae_topk"})
    assert [row["dictionary"] for row in found] == ["topk", "topk:omp", "oracle"]

"""What a page shows of a metric that was dropped in, and which dictionaries its figures tell
apart.
"""

import pytest

from benchmarks.harness import outcome
from benchmarks.harness.drawings import Drawing
from sae_gap import catalogue
from sae_gap.analysis import tables
from sae_gap.core import Column
from sae_gap.figures import labels
from sae_gap.metrics import Metric

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
    row = SIZES | {"method": "sae_topk", "dictionary": "topk", "inference": "own"}
    rows = [row | {"num_latents": latents, "effective_id": 2.0} for latents in (20, 30)]
    summary = tables.summarise(rows)
    assert outcome._unlisted(summary) == ["effective_id"]
    for names, heading in (
        (["effective_id", "effective_ood"], "effective L0 ID"),
        (["effective_id"], "effective L0"),
    ):
        assert outcome._headings(names, summary) == {"effective_id": heading}
    figure = Drawing("curve", {"x": "num_latents", "y": "effective_id"}).draw(rows)
    words = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any("effective number of latents" in text for text in words)


def test_a_crossing_of_a_shared_dictionary_is_drawn_apart():
    methods = (
        ("sae_topk", "topk", "own"),
        ("topk:omp", "topk", "omp"),
        ("oracle:omp", "oracle", "omp"),
    )
    names = ("method", "dictionary", "inference")
    rows = [dict(zip(names, method, strict=True)) for method in methods]
    found = outcome._told_apart(rows, {"sae_topk"})
    assert [row["dictionary"] for row in found] == ["topk", "topk:omp", "oracle"]

"""Labels, colours and order, of what carries its own and of what does not."""

import pytest

from sae_gap.figures import labels


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (("topk",), "TopK SAE"),
        (("topk", "inference"), "TopK"),
        (("mp",), "MP SAE"),
        (("lasso", "inference"), "certified lasso"),
        (("relu", "start"), "ReLU SAE"),
        (("warm", "start"), "warm start"),
        (("new_idea",), "new idea"),
        ((1_000, "num_latents"), "1,000 latents"),
        ((0.05, "lam"), "λ = 0.05"),
        ((3, "no_column"), "no column 3"),
    ],
)
def test_a_name_is_looked_up_in_its_column_and_then_in_the_others(given, label):
    assert labels.label(*given) == label


@pytest.mark.parametrize(
    ("metric", "label", "perfect"),
    [
        ("mcc_ood", "MCC out of distribution", 1.0),
        ("mcc_paper_id", "MCC (published form) in distribution", 1.0),
        ("relative_gap_ood", "relative amortisation gap out of distribution", None),
        ("new_score_id", "new score in distribution", None),
        ("l0_above_id", "latents above 0.01 in distribution", None),
    ],
)
def test_metrics_are_named_with_their_split(metric, label, perfect):
    assert (labels.metric_label(metric), labels.perfect(metric)) == (label, perfect)


def test_names_are_in_the_order_of_their_families():
    mixed = [None, "zeta", 10, "oracle", 2, "alpha", "dl_fista", "relu", "raw"]
    ordered = ["raw", "relu", "dl_fista", "oracle", 2, 10, "alpha", "zeta", None]
    assert sorted(mixed, key=labels.rank) == ordered
    ordered = ["own", "relu", "omp", "lasso"]
    assert sorted(sorted(ordered), key=lambda name: labels.rank(name, "inference")) == ordered


def test_a_name_that_is_nowhere_has_a_spare_colour_of_its_own():
    known = {labels.colour(name) for name in labels._dictionaries()}
    assert labels.colour("new_idea") == "#66A61E" and labels.colour("new_idea") not in known

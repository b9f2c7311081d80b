"""One table of names: labels, colours and order."""

import subprocess
import sys

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
        (("vary_latents", "study"), "Number of latents"),
        (("new_idea",), "new idea"),
        ((1_000, "num_latents"), "1,000 latents"),
        ((0.05, "lam"), "λ = 0.05"),
        ((3, "no_column"), "no column 3"),
    ],
)
def test_a_name_is_looked_up_in_its_column_and_then_in_the_others(given, label):
    assert labels.label(*given) == label


@pytest.mark.parametrize(
    ("metric", "label", "better", "perfect"),
    [
        ("mcc_ood", "MCC out of distribution", 1, 1.0),
        ("mcc_paper_id", "MCC (published form) in distribution", 1, 1.0),
        ("relative_gap_ood", "relative amortisation gap out of distribution", -1, None),
        ("new_score_id", "new score in distribution", 0, None),
        ("l0_id", "latents active (L0) in distribution", 0, None),
    ],
)
def test_metrics_are_named_and_judged(metric, label, better, perfect):
    assert (labels.metric_label(metric), labels.better(metric), labels.perfect(metric)) == (label, better, perfect)


DICTIONARIES = (
    *("raw", "pca", "linear_probe", "relu", "topk", "jumprelu", "mp", "batchtopk", "matryoshka"),
    *("lista_matryoshka", "gated", "softplus_adam", "dl_fista", "online_dl", "spams", "sklearn", "oracle"),
)


def test_dictionaries_have_colours_of_their_own_and_keep_their_order():
    colours = [labels.colour(name) for name in DICTIONARIES]
    assert len(set(colours)) == len(colours)
    assert sorted(reversed(DICTIONARIES), key=labels.rank) == list(DICTIONARIES)
    mixed = [None, "zeta", 10, "oracle", 2, "alpha", "relu"]
    assert sorted(mixed, key=labels.rank) == ["relu", "oracle", 2, 10, "alpha", "zeta", None]


def test_a_spare_colour_is_the_same_in_every_process_and_no_one_elses():
    code = "from sae_gap import names; print(labels.colour('new_idea'))"
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() for _ in "ab"
    }
    assert found == {labels.colour("new_idea")} and not found & {labels.colour(name) for name in DICTIONARIES}

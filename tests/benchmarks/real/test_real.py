"""The sentences of the page, on rows whose answer is known."""

import numpy as np
import pytest

from benchmarks.real import real
from sae_gap.measure.splicing import split_lines


def rows_of(kl, tokens=(100, 300, 50), shares=(1.0, 2.0, 4.0)):
    """Rows of so much divergence by dictionary and codes, of which documents have unlike shares for each token."""
    tokens, sums = np.array(tokens), np.array(tokens) * shares
    sums = sums / sums.sum() * tokens.sum()
    clean = {"kind": "clean", "ce": 3.0, "tokens": tokens, "variance": tokens * 1.0, "ce_sums": tokens * 3.0}
    rows = [clean]
    for (name, codes), value in kl.items():
        row = {"kind": "score", "dictionary": name, "codes": codes, "level": 32, "near": 32, "l0": 32.0, "kl": value}
        row |= {"fvu": value, "kl_sums": value * sums, "errors": value * sums, "ce_sums": clean["ce_sums"] + value * sums}
        rows.append(row)
    return rows


KL = {("topk", "own"): 1.0, ("topk", "own_refit"): 0.9, ("topk", "lasso_refit"): 0.75, ("topk", "omp"): 0.8}


@pytest.mark.parametrize(
    ("more", "beside"),
    [({("d", "omp"): 0.5}, "25 % its dictionary's, beside d, and 50"), ({}, "0 % its dictionary's, the best here, and 75")],
)
def test_the_interval_of_a_share_is_that_of_the_ratio(more, beside):
    """Where all documents have one share, its interval is that share, however much each of them loses."""
    rows = rows_of(KL | more)
    splits = split_lines(rows)
    told = real.encoder_share(rows, splits, next(line for line in splits if line["loss"] == "kl"))
    assert f"loses at L0 32, 25 % (25 to 25, over only 3 documents) are its encoder's, {beside} % no dictionary" in told


def test_methods_without_an_encoder_are_refused_before_anything_is_recorded(call, tmp_path):
    code, _, err = call("real", "--methods=online_dl", f"--results_dir={tmp_path}")
    assert (code, err) == (2, "--methods=online_dl trains no SAE to compare; add one, such as topk.\n")


@pytest.mark.parametrize(
    ("more_drop", "more_auc", "agrees"),
    [(-0.2, 0.1, "agrees"), (-0.2, -0.1, "cannot tell"), (-0.05, 0.1, "cannot tell"), (0.2, -0.1, "disagrees")],
)
def test_probing_agrees_with_a_better_dictionary_only_where_probes_are_no_worse(more_drop, more_auc, agrees):
    """A dictionary that tells nothing of a concept loses nothing either."""
    names = ("auc_ood", "drop", "more_drop", "more_auc_ood")
    of = {("topk", "own"): (0.8, 0.3, 0, 0), ("topk", "lasso_refit"): (0.8, 0.3, 0, 0)}
    of["d", "lasso_refit"] = (0.8 + more_auc, 0.3 + more_drop, more_drop, more_auc)
    overall = [
        {"dictionary": place[0], "codes": place[1], "probe": real.PROBE}
        | dict(zip(names, values, strict=True))
        | {f"{name}_half": 0.1 for name in names}
        for place, values in of.items()
    ]
    told = real.probing_agrees(overall, {"dictionary": "topk", "best": "d"})
    assert told.startswith(f"Probing out of distribution {agrees}: ")
    assert f"those on d by {more_drop:.3f} ± 0.100 (and the AUC itself by {more_auc:.3f} ± 0.100)." in told

"""The split of a loss: its parts sum to it, and each is between the right codes of the same rows.
Comparisons: their interval by leaving each document out, how often it holds the truth, and their
words.
"""

import numpy as np
import scipy.signal
from numpy.random import default_rng
from pytest import approx, mark, raises

from sae_gap.analysis import (
    Comparison,
    best_at,
    interval,
    placed,
    sentence,
    splits,
    table_of,
)
from sae_gap.analysis.comparison import compare
from sae_gap.analysis.parts import AMORTISED
from sae_gap.core import runs
from tests.benchmarks.reference import ends
from tests.figures.samples import row

TOKENS = np.array([100.0, 300, 50, 200])
VARIANCE = np.array([4.0, 9, 2, 7])
# Of codes on an SAE's dictionary and on another one, the KL and the FVU.
CODES = {
    ("a", "own"): (1.0, 0.5),
    ("a", "own_refit"): (0.9, 0.4),
    ("a", "proposed"): (0.8, 0.1),
    ("a", "screened"): (0.7, 0.35),
    ("a", "omp"): (0.75, 0.3),
    ("a", "lasso"): (0.1, 0.1),
    ("b", "lasso_refit"): (0.4, 0.45),
    ("b", "proposed"): (0.0, 0.0),
}


def document_rows(codes=CODES):
    rng = default_rng(0)
    rows = []
    for (name, coded), (kl, fvu) in codes.items():
        noise = rng.uniform(0.9, 1.1, (3, 4))
        sums = {
            "kl_sums": kl * TOKENS * noise[0],
            "ce_sums": (kl * noise[1] + 2) * TOKENS,
        }
        sums["errors"] = fvu * VARIANCE * noise[2]
        made = {
            "dictionary": name,
            "codes": coded,
            "level": 8,
            "l0": 8.0,
            "dead": False,
        }
        made |= {"tokens": TOKENS, "variance": VARIANCE, "ce_clean": 2 * TOKENS, **sums}
        made |= {"kl": sums["kl_sums"].sum() / TOKENS.sum()}
        made |= {"ce": sums["ce_sums"].sum() / TOKENS.sum()}
        rows.append(made | {"fvu": sums["errors"].sum() / VARIANCE.sum()})
    return rows


def test_what_was_not_measured_is_not_known_and_the_own_values_may_be_the_best():
    rows = document_rows()
    unknown = {
        "proposed": ("selection", "screening"),
        "own_refit": ("values", "support"),
    }
    for gone, parts in unknown.items():
        (line,) = splits([each for each in rows if each["codes"] != gone], ["kl"])
        assert line["amortisation_part"] > 0 and line["dictionary_part"] > 0
        for part in parts:
            assert line[f"{part}_part"] is line[f"{part}_high"] is None
    (line,) = splits(document_rows(CODES | {("a", "own_refit"): (1.5, 0.4)}), ["kl"])
    assert line["support_codes"] == "own" and line["values_part"] == 0
    # Neither dead encoders nor other levels nor codes alone are split.
    assert splits([rows[0] | {"dead": True}, *rows[1:]], ["kl"]) == []
    assert splits([rows[0], *(each | {"level": 9} for each in rows[1:])], ["kl"]) == []
    assert (
        splits([each for each in rows if each["codes"] in ("own", "lasso")], ["kl"])
        == []
    )
    assert best_at(rows, 8) is rows[6] and best_at(rows, 8, "a") is rows[3]
    assert best_at(rows, 9) is None


# Sums of different powers of two, so that each part tells which scores it is the difference of.
SCORES = {("topk", "own"): 1.0, ("topk", "support"): 3.0, ("topk", "lasso"): 7.0}
SCORES |= {("oracle", "lasso"): 15.0}


@mark.parametrize(("retrained", "known"), [(0.95, True), (2.5, False)])
def test_training_is_not_judged_where_the_own_form_is_better_beyond_doubt(
    retrained, known
):
    learned = {
        ("a", "retrained"): (retrained, 0.45),
        ("a", "learned_steps_1"): (0.8, 0.4),
    }
    line = splits(document_rows(CODES | learned), ["kl"])[0]
    assert {line[f"{part}_part"] is not None for part in AMORTISED} == {known}
    assert line["amortisation_part"] > 0


def seed_rows(**values):
    return [row(*place, mcc_ood=score, **values) for place, score in SCORES.items()]


def parts_of(rows):
    names = ("values", "support", "amortisation", "dictionary")
    return [
        tuple(line[f"{name}_part"] for name in names)
        for line in splits(rows, ["mcc_ood"])
    ]


def test_the_best_codes_are_those_of_the_best_mean_over_seeds():
    seeds = [seed_rows(seed=seed, close=seed / 2) for seed in (0, 1)]
    for rows, support, least in zip(seeds, (5.0, 0.0), (2.0, 5.0), strict=True):
        rows[1]["mcc_ood"] = support
        again = {"method": "topk least", "inference": "least_squares", "mcc_ood": least}
        rows.append(rows[2] | again)
    (line,) = splits([*seeds[0], *seeds[1]], ["mcc_ood"])
    assert line["support_codes"] == "least_squares" and line["units"] == 2
    assert line["atoms_found"] == 0.25
    assert line["values_part"] == approx(3.5 - 1)
    # What was not inferred for all of the seeds is not compared.
    some = seeds[0][2] | {"method": "topk omp", "inference": "omp", "mcc_ood": 99.0}
    assert splits([*seeds[0], *seeds[1], some], ["mcc_ood"]) == [line]
    low, high = interval(np.array([2.0, 5.0]) - 1, np.ones(2))
    assert (line["values_low"], line["values_high"]) == approx((low, high))


@mark.parametrize(
    "change",
    [
        {"num_latents": 50},
        {"sparsity": 5},
        {"seed": 1},
        {"study": "other"},
        {"mcc_ood": None},
    ],
)
def test_rows_are_paired_within_their_cell_alone(change):
    rows = seed_rows()
    for place in (0, 2, 3):
        assert parts_of([*rows[:place], rows[place] | change, *rows[place + 1 :]]) == []
    assert parts_of([rows[0], rows[1] | change, *rows[2:]]) == [(None, None, 6.0, 8.0)]
    other = rows[0] | {"method": "another", "mcc_ood": 6.0}
    assert parts_of([*rows, other])[0] == (2.0, 4.0, 6.0, 8.0)


def test_changed_atoms_take_no_part_and_codes_may_differ_in_any_option():
    rows = seed_rows()
    changed = [each | {"mcc_ood": 99.0, "columns": "renormed"} for each in rows[2:]]
    assert parts_of(changed + rows) == parts_of(rows)
    assert parts_of([*rows, rows[2] | {"mcc_ood": 9.0, "iterations": 9}]) == [
        (2, 6, 8, 6)
    ]
    with raises(ValueError, match="twice"):
        parts_of([*rows, rows[2]])


def test_a_sentence_says_what_a_line_does():
    (line,) = splits(document_rows(), ["kl"])
    found = {"total": 1.0, "amortisation_part": 0.3, "values_part": 0.1, "rest": 0.4}
    found |= {"share_low": 0.204, "share_high": 0.396, "dictionary_part": 0.3}
    said = sentence(line | found)
    assert said.startswith(
        "a loses 1.000 nats of KL at L0 8 beside b: 30 % encoder (20 to 40 over"
    )
    assert " only 4 documents; 10 % values, " in said and " selection, " in said
    assert said.endswith(", 30 % dictionary, 40 % rest")
    # Nothing is known of the interval of one document.
    alone = line | {
        "best": "a",
        "share_low": -np.inf,
        "units": 1,
        "values_low": -np.inf,
    }
    assert "beside" not in sentence(alone) and "of a single document" in sentence(alone)
    (shown,) = table_of([alone], "Losses").lines
    assert shown.get("values_part_sd") is None


@mark.parametrize(
    ("l0", "near", "level"),
    [(34, 64, 34), (16.1, 16, 16), (33.7, 64, 34), (1.4, 16, 1.4), (0, 16, 0)],
)
def test_an_encoder_is_split_at_its_own_l0_and_beside_the_asked_one_of_nearest_ratio(
    l0, near, level
):
    assert placed(l0, (16, 64)) == {"near": near, "level": level}


def coverage(documents, skewed):
    """How often `interval` holds the truth, of documents of very unequal lengths.

    The variance and the difference of a document are its length, of a log-normal law whose
    logarithm deviates by 1, times factors of their own: of the variance log-normal, deviating by
    .3, and of the difference 2 + 3 t with t of Student's law of three degrees of freedom or, if
    `skewed`, log-normal, deviating by 1.
    """
    rng = default_rng(0)
    lengths = rng.lognormal(0, 1, (4_000, documents))
    variance = lengths * rng.lognormal(0, 0.3, lengths.shape)
    factors = (
        rng.lognormal(0, 1, lengths.shape)
        if skewed
        else 2 + 3 * rng.standard_t(3, lengths.shape)
    )
    truth = (np.exp(0.5) if skewed else 2) / np.exp(0.3**2 / 2)
    low, high = interval(lengths * factors, variance)
    return np.mean((low <= truth) & (truth <= high))


def test_the_interval_is_of_student_by_leaving_each_document_out():
    own, best, far = np.array(
        [[5.0, 1.0, 3.0, 2.0], [3.0, 0.9, 1.0, 1.9], [9.0, 4.0, 5.0, 6.0]]
    )
    found = compare(best, own, far)
    assert found.one == approx(1 - best.sum() / far.sum())
    assert [found.more, found.low, found.high] == approx([*ends(own - best, far)])
    # More of the same documents are sure of the same difference, and which is first is its sign.
    many = [np.tile(each, 10) for each in (best, own, far)]
    assert compare(*many).sign == 1 and compare(many[1], many[0], many[2]).sign == -1
    assert compare(own, own, far)[:4] == (found.other, found.other, 0, 0)
    assert compare([1.0, 0.0], [2.0, 0.0], [4.0, 0.0])[2:4] == (-np.inf, np.inf)
    # A document that weighs nothing changes nothing.
    assert compare(*([*each, 0] for each in (best, own, far)))[:4] == approx(found[:4])


@mark.parametrize(("documents", "skewed"), [(3, False), (24, True)])
def test_intervals_hold_the_truth_as_often_as_they_say(documents, skewed):
    assert coverage(documents, skewed) > 0.92


@mark.parametrize("correlation", [0.0, 0.9])
def test_intervals_over_runs_of_an_autoregressive_loss_hold_the_truth(correlation):
    """Another series, which correlates as far, decides the runs. Three deviations are allowed."""
    noise = default_rng(0).standard_normal((2, 400, 1_000))
    noise[..., 1:] *= np.sqrt(1 - correlation**2)
    held = 0
    for loss, other in zip(
        *scipy.signal.lfilter([1], [1, -correlation], noise), strict=True
    ):
        members = runs(other)
        low, high = interval(np.bincount(members, loss), np.bincount(members))
        held += low <= 0 <= high
    assert abs(held - 380) < 3 * np.sqrt(380 * 0.05)


@mark.parametrize(
    ("comparison", "text"),
    [
        (Comparison(0.935, 0.948, -0.017, -0.009), "1.3 points less (0.9 to 1.7)"),
        (Comparison(0.75, 0.5, -np.inf, np.inf), "25.0 points (no interval)"),
        (Comparison(0.93, 0.93, -0.002, 0.001), "0.0 points (-0.2 to 0.1)"),
        (Comparison(0.9304, 0.93, 0.0003, 0.0005), "0.04 points more (0.03 to 0.05)"),
        (Comparison(0.932, 0.93, 0.0001, 0.004), "0.20 points more (0.01 to 0.40)"),
        # The second explains more than its additional latents can.
        (
            Comparison(0.2, 0.8, -0.9, -0.3, (1.0, 1.5)),
            "60.0 points less (30.0 to 90.0)",
        ),
    ],
)
def test_a_difference_is_told_in_points(comparison, text):
    assert str(comparison) == text

"""The split of a loss: its parts sum to it, and each is between the right codes of the same rows."""

import numpy as np
import pytest

from sae_gap.analysis import (
    best_at,
    interval,
    placed,
    sentence,
    shares,
    splits,
    table_of,
)
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


def document_rows(codes=CODES, **changes):
    rng, rows = np.random.default_rng(0), []
    for (name, coded), (kl, fvu) in codes.items():
        noise = rng.uniform(0.9, 1.1, (3, 4))
        sums = {"kl_sums": kl * TOKENS * noise[0], "ce_sums": (kl * noise[1] + 2) * TOKENS}
        sums["errors"] = fvu * VARIANCE * noise[2]
        made = {"dictionary": name, "codes": coded, "level": 8, "l0": 8.0, "dead": False}
        made |= {"tokens": TOKENS, "variance": VARIANCE, "ce_clean": 2 * TOKENS, **sums}
        made |= {"kl": sums["kl_sums"].sum() / TOKENS.sum()}
        made |= {"ce": sums["ce_sums"].sum() / TOKENS.sum()}
        rows.append(made | {"fvu": sums["errors"].sum() / VARIANCE.sum()} | changes)
    return rows


@pytest.mark.parametrize(
    ("loss", "own_best", "best"),
    [("kl", "screened", ("b", "lasso_refit")), ("fvu", "omp", ("a", "omp"))],
)
def test_parts_of_documents_by_hand(loss, own_best, best):
    rows = document_rows()
    of = {(each["dictionary"], each["codes"]): each for each in rows}
    (line,) = splits(rows, [loss])
    sums, unit = {"kl": ("kl_sums", TOKENS), "fvu": ("errors", VARIANCE)}[loss]
    own, kept, proposed, top = (
        of["a", name] for name in ("own", "own_refit", "proposed", own_best)
    )
    ends = {"values": (own, kept), "support": (kept, top), "selection": (kept, proposed)}
    ends |= {"screening": (proposed, top), "dictionary": (top, of[best])}
    ends |= {"amortisation": (own, top)}
    for part, (worse, better) in ends.items():
        assert line[f"{part}_part"] == pytest.approx(worse[loss] - better[loss])
        low, high = interval(worse[sums] - better[sums], unit)
        assert (line[f"{part}_low"], line[f"{part}_high"]) == pytest.approx((low, high))
    # As a share of what the own codes lose in the same documents.
    low, high = interval(own[sums] - top[sums], own[sums])
    assert (line["share_low"], line["share_high"]) == pytest.approx((low, high))
    names = "support_codes", "own_best_codes", "best_codes", "best", "level", "units"
    assert [line[name] for name in names] == ["own_refit", own_best, best[1], best[0], 8, 4]
    total = sum(line[f"{part}_part"] for part in ("values", "support", "dictionary"))
    assert line["total"] == pytest.approx(own[loss]) == pytest.approx(total + line["rest"])


def test_cross_entropy_counts_above_the_clean_models_and_each_loss_has_its_best_codes():
    lines = splits(document_rows(), ["ce", "fvu"])
    assert [line["own_best_codes"] for line in lines] == ["screened", "omp"]
    own = document_rows()[0]
    assert lines[0]["total"] == pytest.approx(own["ce"] - 2) and lines[0]["total"] < 1.2


def test_what_was_not_measured_is_not_known_and_the_own_values_may_be_the_best():
    rows = document_rows()
    unknown = {"proposed": ("selection", "screening"), "own_refit": ("values", "support")}
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
    assert splits([each for each in rows if each["codes"] in ("own", "lasso")], ["kl"]) == []
    assert best_at(rows, 8) is rows[6] and best_at(rows, 8, "a") is rows[3]
    assert best_at(rows, 9) is None


# Sums of different powers of two, so that each part tells which scores it is the difference of.
SCORES = {("topk", "own"): 1.0, ("topk", "support"): 3.0, ("topk", "lasso"): 7.0}
SCORES |= {("oracle", "lasso"): 15.0}


def seed_rows(**values):
    return [row(*place, mcc_ood=score, **values) for place, score in SCORES.items()]


def parts_of(rows, loss="mcc_ood"):
    names = ("values", "support", "amortisation", "dictionary")
    return [tuple(line[f"{name}_part"] for name in names) for line in splits(rows, [loss])]


def test_a_score_is_a_loss_of_opposite_sign_and_all_codes_take_part():
    assert parts_of(seed_rows()) == [(2.0, 4.0, 6.0, 8.0)]
    (line,) = splits(seed_rows(), ["mcc_ood"])
    assert (line["total"], line["rest"], line["best"]) == (0.0, -14.0, "oracle")
    assert shares(line, "encoder", "dictionary") == "43 % encoder, 57 % dictionary"
    # The own codes may be the best.
    rows = seed_rows()
    low = [rows[1] | {"mcc_ood": 0.5}, rows[2] | {"mcc_ood": 0.7}]
    assert parts_of([rows[0], *low, rows[3]]) == [(0, 0, 0, 14)]


def test_the_best_codes_are_those_of_the_best_mean_over_seeds():
    seeds = [seed_rows(seed=seed, close=seed / 2) for seed in (0, 1)]
    for rows, support, least in zip(seeds, (5.0, 0.0), (2.0, 5.0), strict=True):
        rows[1]["mcc_ood"] = support
        again = {"method": "topk least", "inference": "least_squares", "mcc_ood": least}
        rows.append(rows[2] | again)
    (line,) = splits([*seeds[0], *seeds[1]], ["mcc_ood"])
    assert line["support_codes"] == "least_squares" and line["units"] == 2
    assert line["atoms_found"] == 0.25
    assert line["values_part"] == pytest.approx(3.5 - 1)
    # What was not inferred for all of the seeds is not compared.
    some = seeds[0][2] | {"method": "topk omp", "inference": "omp", "mcc_ood": 99.0}
    assert splits([*seeds[0], *seeds[1], some], ["mcc_ood"]) == [line]
    low, high = interval(np.array([2.0, 5.0]) - 1, np.ones(2))
    assert (line["values_low"], line["values_high"]) == pytest.approx((low, high))


@pytest.mark.parametrize(
    "change",
    [{"num_latents": 50}, {"sparsity": 5}, {"seed": 1}, {"study": "other"}, {"mcc_ood": None}],
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
    assert parts_of([*rows, rows[2] | {"mcc_ood": 9.0, "iterations": 9}]) == [(2, 6, 8, 6)]
    with pytest.raises(ValueError, match="twice"):
        parts_of([*rows, rows[2]])


def test_a_sentence_and_a_table_say_what_a_line_does():
    (line,) = splits(document_rows(), ["kl"])
    found = {"total": 1.0, "amortisation_part": 0.3, "values_part": 0.1, "rest": 0.4}
    found |= {"share_low": 0.204, "share_high": 0.396, "dictionary_part": 0.3}
    said = sentence(line | found)
    assert said.startswith("a loses 1.000 nats of KL at L0 8 beside b: 30 % encoder (20 to 40 over")
    assert " only 4 documents; 10 % values, " in said and " selection, " in said
    assert said.endswith(", 30 % dictionary, 40 % rest")
    (shown,) = table_of([line], "Losses").lines
    half = (line["support_high"] - line["support_low"]) / 2
    assert shown["support_part_sd"] == pytest.approx(half) and shown["loss"] == "KL"
    # Nothing is known of a dictionary beside itself, nor of an interval of one document.
    alone = line | {"best": "a", "share_low": -np.inf, "units": 1, "values_low": -np.inf}
    assert "beside" not in sentence(alone) and "of a single document" in sentence(alone)
    (shown,) = table_of([alone], "Losses").lines
    assert "dictionary_part_mean" not in shown and shown.get("values_part_sd") is None


@pytest.mark.parametrize(
    ("l0", "near", "level"),
    [(34, 64, 34), (16.1, 16, 16), (33.7, 64, 34), (1.4, 16, 1.4), (0, 16, 0)],
)
def test_an_encoder_is_split_at_its_own_l0_and_beside_the_asked_one_of_nearest_ratio(
    l0, near, level
):
    assert placed(l0, (16, 64)) == {"near": near, "level": level}

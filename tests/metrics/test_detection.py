"""Detectors, by hand and by loops; what is sparse scores as what is dense."""

import dataclasses
import re

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linear_sum_assignment

from sae_gap.core.codes import Codes
from sae_gap.core.matching import match_atoms
from sae_gap.core.types import Model, Split, Task, Tree
from sae_gap.metrics import detection as d
from sae_gap.metrics.metric import Inferred

RNG = np.random.default_rng(0)


def unit(rows, columns):
    matrix = RNG.standard_normal((rows, columns)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=0)


def sparse_codes(n, width, share=0.2):
    return np.where(RNG.random((n, width)) < share, RNG.random((n, width)) + 0.1, 0).astype(np.float32)


def test_the_nearest_feature_may_lie_on_the_other_side_and_be_shared(monkeypatch):
    truth = np.eye(3, dtype=np.float32)
    learned = np.array([[1, 0.1, 0], [-0.2, -2, 0.3], [0.9, 0, 0.1], [0, 0.1, 5]], np.float32).T
    monkeypatch.setattr(d, "_AT_ONCE", 6)
    # Whatever the lengths of the atoms are.
    for lengths in (1, np.float32([1, 0.01, 100])):
        assert d.nearest_features(learned, truth * lengths).tolist() == [0, 1, 0, 2]


def test_detection_by_hand():
    # The first latent fires in 3 of 5 samples, its feature in 2, both in 1; the second never; the third wherever its own does.
    firing = d.Firing(np.array([3, 0, 2]), np.array([2, 1, 2]), np.array([1, 0, 2]), 5)
    found = d.detection(firing)
    assert found["precision"] == pytest.approx((1 / 3 + 0 + 1) / 3) and found["recall"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert found["f1"] == pytest.approx((2 * (1 / 6) / (5 / 6) + 0 + 1) / 3)
    assert found["detector_accuracy"] == pytest.approx((2 / 5 + 4 / 5 + 1) / 3)
    assert (found["fired"], found["dead"]) == (1.0, 1)
    silent = d.detection(d.Firing(np.array([2]), np.array([0]), np.array([0]), 5))
    assert (silent["precision"], silent["recall"], silent["f1"]) == (0, 0, 0)


def forms(codes):
    return codes, scipy.sparse.csr_array(codes), Codes.from_dense(codes)


@pytest.mark.parametrize("form", [0, 1, 2])
def test_counts_are_those_of_loops(form, monkeypatch):
    truth, codes = sparse_codes(23, 6), sparse_codes(23, 4) * RNG.choice([-1, 1], (23, 4)).astype(np.float32)
    # What is below zero is off.
    truth[4:8] *= -1
    nearest, least = np.array([5, 0, 0, 3]), np.array([0.3, 0.0, 0.8, 2.0])
    monkeypatch.setattr(d, "_AT_ONCE", 30)
    found = d.count(nearest, forms(truth)[form], forms(codes)[form], (0.0, least))
    for firing, bound in zip(found, (np.zeros(4), least), strict=True):
        fired, true, both = np.zeros(4, int), np.zeros(4, int), np.zeros(4, int)
        for row in range(23):
            for latent in range(4):
                on, present = abs(codes[row, latent]) > bound[latent], truth[row, nearest[latent]] > 0
                fired[latent] += on
                true[latent] += present
                both[latent] += on and present
        assert [part.tolist() for part in firing[:3]] == [part.tolist() for part in (fired, true, both)]
        assert firing.samples == 23
    with pytest.raises(ValueError, match="samples"):
        d.count(nearest, truth[:5], codes)
    with pytest.raises(ValueError, match="latents"):
        d.count(nearest[:2], truth, codes)


@pytest.mark.parametrize("form", [0, 1, 2])
def test_cuts_are_shares_of_the_weighted_mean(form, monkeypatch):
    codes = np.array([[3, 0, -1, 0], [1, 0, 0, 0], [0.1, 0, -3, 0], [0, 0, 2, 0.5]], np.float32)
    monkeypatch.setattr(d, "_AT_ONCE", 9)
    # Of the first latent's codes .4 · 10.01 / 4.1 leaves out the 1 no less than the .1, and .4 · 9 / 3 no more.
    np.testing.assert_allclose(d.cuts(forms(codes)[form], 0.4), [0.4 * 3, 0, 0.4 * 14 / 6, 0.4 * 0.5], rtol=1e-6)
    np.testing.assert_allclose(d.cuts(forms(codes)[form]), [10 / 4 / 3, 0, 14 / 6 / 3, 0.5 / 3], rtol=1e-6)
    # In half precision squares would overflow.
    np.testing.assert_allclose(d.cuts(np.float16([[1_000], [500]])), 1_250_000 / 1_500 / 3)


def test_a_cut_is_the_least_that_is_its_own_share():
    rng = np.random.default_rng(3)
    codes = np.abs(rng.normal(size=(400, 6))) ** 4 * (rng.random((400, 6)) < 0.4)
    for share in (0.1, 1 / 3, 0.8):
        for z, cut in zip(codes.T, d.cuts(codes, share), strict=True):
            fixed = [
                c
                for c in (share * (z[z >= least] ** 2).sum() / z[z >= least].sum() for least in z[z > 0])
                if np.isclose(c, share * (z[z > c] ** 2).sum() / z[z > c].sum())
            ]
            assert cut == pytest.approx(min(fixed))
    # At any scale that the type has, and where all codes are one.
    for scale in (1e-300, 1e-170, 1e160, 1e300):
        np.testing.assert_allclose(d.cuts(codes * scale) / scale, d.cuts(codes))
    np.testing.assert_allclose(d.cuts(np.float32(codes) * np.float32(1e30)), 1e30 * d.cuts(np.float32(codes)), rtol=1e-5)
    for number in (1, 10, 1_000):
        assert d.cuts(np.full((number, 1), 0.1), 0.99) == pytest.approx(0.099)
    for share in (0, 1, -1, np.nan, "a"):
        with pytest.raises(ValueError, match=r"^share must be"):
            d.cuts(codes, share)


def test_cuts_part_the_codes_of_a_feature_from_many_small_ones():
    rng = np.random.default_rng(1)
    codes = np.abs(rng.normal(0, 0.3, (4_000, 1)))
    codes[:40] = rng.normal(4, 0.6, (40, 1))
    assert (codes**2).sum() / codes.sum() / 3 < codes[40:].max()
    cut = d.cuts(codes)[0]
    assert codes[40:].max() < cut < codes[:40].min()


@pytest.mark.parametrize(("learned", "true"), [(5, 9), (9, 5), (7, 7)])
def test_atom_scores_are_those_of_the_assignment(learned, true):
    atoms, truth = unit(6, learned) * 3, unit(6, true)
    cosine = np.abs((atoms / 3).T @ truth)
    rows, columns = linear_sum_assignment(-cosine)
    nearest, groups = d.nearest_features(atoms, truth), {"first": np.arange(3), "none": np.zeros(0, int)}
    found = d.atom_scores(match_atoms(atoms, truth), learned, nearest, groups)
    assert found["atom_mcc"] == pytest.approx(cosine[rows, columns].mean(), abs=1e-6)
    assert found["uniqueness"] == len(set(cosine.argmax(axis=1))) / learned
    pairs = {column: cosine[row, column] for row, column in zip(rows, columns, strict=True)}
    assert found["atom_mcc_first"] == pytest.approx(np.mean([pairs[i] for i in range(3) if i in pairs]), abs=1e-6)
    assert "atom_mcc_none" not in found


def test_groups_are_levels_and_quartiles():
    codes = np.zeros((20, 8), np.float32)
    for feature, fired in enumerate((3, 20, 1, 5, 7, 0, 9, 2)):
        codes[:fired, feature] = 1
    found = d.groups_of(codes, np.array([0, 0, 1, 1, 2, 4, -1, -1]))
    assert {name: group.tolist() for name, group in found.items()} == {
        "roots": [0, 1],
        "children": [2, 3],
        "grandchildren": [4],
        "great_grandchildren": [],
        "level_4": [5],
        "free": [6, 7],
        "frequent": [1, 6],
        "common": [4, 3],
        "uncommon": [0, 7],
        "rare": [2, 5],
    }
    assert list(d.groups_of(scipy.sparse.csr_array(codes))) == ["frequent", "common", "uncommon", "rare"]


def test_absorption_is_the_recall_that_a_child_takes(monkeypatch):
    monkeypatch.setattr(d, "_AT_ONCE", 40)
    # Feature 0 has the children 1 and 2, feature 3 the child 4; feature 5 is free.
    parent = np.array([-1, 0, 0, -1, 3, -1])
    truth = np.zeros((60, 6), np.float32)
    truth[:40, 0], truth[:10, 1], truth[10:20, 2], truth[20:28, 4], truth[20:, 3] = 1, 1, 1, 1, 1
    codes = np.zeros((60, 5), np.float32)
    # Latent 2 of feature 0: in 5 of the 20 samples with a child, in 18 of the 20 without.
    codes[15:38, 2] = 1
    codes[0, 2] = 0.05
    partner = np.array([2, 0, 1, 3, -1, 4])
    # Feature 3 has but 8 samples with its child.
    assert d.absorption(parent, partner, truth, codes, 0.1) == pytest.approx(18 / 20 - 5 / 20)
    assert d.absorption(parent, partner, *map(scipy.sparse.csr_array, (truth, codes))) == pytest.approx(18 / 20 - 6 / 20)
    # Each latent has its own least magnitude, and feature 0 has latent 2.
    assert d.absorption(parent, partner, truth, codes, [9, 9, 0.1, 9, 9]) == pytest.approx(18 / 20 - 5 / 20)
    assert d.absorption(list(parent), tuple(partner), truth, codes, (0, 0, 2, 0, 0)) == 0
    # Signed codes fire by their size.
    assert d.absorption(parent, partner, truth, -codes, 0.1) == pytest.approx(18 / 20 - 5 / 20)
    assert d.absorption(parent, np.where(partner == 2, -1, partner), truth, codes) is None
    assert d.absorption(np.full(6, -1), partner, truth, codes) is None


@pytest.mark.parametrize(("beside", "alone", "expected"), [(10, 10, 1.0), (9, 10, None), (10, 9, None)])
def test_a_parent_is_judged_by_ten_samples_of_either_kind(beside, alone, expected):
    truth, codes = np.zeros((25, 2), np.float32), np.zeros((25, 1), np.float32)
    truth[: beside + alone, 0], truth[:beside, 1] = 1, 1
    codes[beside : beside + alone] = 1
    assert d.absorption(np.array([-1, 0]), np.array([0, -1]), truth, codes) == expected


def test_explained_is_by_its_formula(monkeypatch):
    monkeypatch.setattr(d, "_AT_ONCE", 12)
    codes, atoms, bias = sparse_codes(30, 4), unit(5, 4) * 2, np.arange(5, dtype=np.float32)
    signals = codes @ atoms.T + bias + 0.3 * RNG.standard_normal((30, 5)).astype(np.float32)
    signals[7] = 0
    drawn = codes @ atoms.T + bias
    variance = np.mean(np.sum(signals**2, axis=1)) - np.sum(signals.mean(axis=0) ** 2)
    found = d.explained(signals, atoms, bias, scipy.sparse.csr_array(codes))
    assert found["r2"] == pytest.approx(1 - np.mean(np.sum((signals - drawn) ** 2, axis=1)) / variance, rel=1e-4)
    keep = np.arange(30) != 7
    assert found["shrinkage"] == pytest.approx(
        np.mean(np.linalg.norm(drawn[keep], axis=1) / np.linalg.norm(signals[keep], axis=1)), rel=1e-5
    )


def test_what_has_no_variance_or_no_length_scores_zero():
    codes, atoms = sparse_codes(30, 4), unit(5, 4)
    for value in (1, 0.1):
        constant = d.explained(np.full((30, 5), value, np.float32), atoms, np.ones(5), codes)
        assert constant["r2"] == 0 and constant["shrinkage"] > 0
    assert d.explained(np.zeros((30, 5), np.float32), atoms, np.zeros(5), codes) == {"r2": 0, "shrinkage": 0}


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_a_large_bias_leaves_what_is_explained(offset):
    codes, atoms = sparse_codes(200, 4), unit(5, 4)
    bias = np.full(5, offset, np.float32)
    signals = (codes @ atoms.T + 0.1 * RNG.standard_normal((200, 5)) + bias).astype(np.float32)
    left = signals.astype(np.float64) - bias - codes @ atoms.T
    expected = 1 - np.sum(left**2) / np.sum((signals - signals.mean(axis=0, dtype=np.float64)) ** 2)
    assert d.explained(signals, atoms, bias, codes)["r2"] == pytest.approx(expected, abs=1e-4)


def test_what_is_no_matrix_of_finite_codes_is_refused():
    codes, atoms, parent, partner = sparse_codes(30, 4), unit(5, 4), np.array([-1, 0, -1, -1]), np.arange(4)
    broken = codes.copy()
    broken[3, 2] = np.nan
    for call in (
        d.cuts,
        lambda codes: d.count(partner, codes, codes),
        lambda codes: d.absorption(parent, partner, codes, codes),
    ):
        for wrong, message in ((broken, "NaN"), (scipy.sparse.csr_array(broken), "NaN"), (codes[0], "matrix")):
            with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*\.$"):
                call(wrong)
    with pytest.raises(ValueError, match="real numbers"):
        d.cuts(codes.astype(complex))
    with pytest.raises(ValueError, match="30 samples"):
        d.absorption(parent, partner, codes, codes[:10])
    signals = np.ones((30, 5))
    for wrong in (
        (signals, atoms, np.zeros(5), codes[:10]),
        (signals[:, :1], atoms, np.zeros(5), codes),
        (signals, atoms, np.zeros((5, 1)), codes),
        (signals, atoms, np.zeros(1), codes),
        (signals, atoms[:, :3], np.zeros(5), codes),
        (signals[0], atoms, np.zeros(5), codes),
        (signals[:0], atoms, np.zeros(5), codes[:0]),
    ):
        with pytest.raises(ValueError, match=r"^signals .* must fit together[^\n]*\.$"):
            d.explained(*wrong)
    with pytest.raises(ValueError, match="not finite"):
        d.explained(np.full((30, 5), np.nan), atoms, np.zeros(5), codes)
    # The least of the bytes is 128 in size.
    assert d.count(np.zeros(1, int), codes[:1, :1], np.array([[-128]], np.int8))[0].fired.tolist() == [1]


def test_what_is_explained_is_told_at_any_scale():
    codes = np.array([[1, 0, 2], [0, 1, 0], [1, 1, 0]], float)
    for scale in (1e-30, 1e-3, 1, 1e30):
        found = d.explained(scale * codes, np.eye(3), np.zeros(3), 0.5 * scale * codes)
        varied = ((codes - codes.mean(axis=0)) ** 2).sum()
        assert found["r2"] == pytest.approx(1 - 0.25 * (codes**2).sum() / varied)
        assert found["shrinkage"] == pytest.approx(0.5 if scale > 1e-6 else 0)
    for kind, scale in ((np.float16, 300), (np.float32, 1e30)):
        found = d.explained(kind(scale * codes), np.eye(3, dtype=kind), np.zeros(3, kind), kind(0.5 * scale * codes))
        assert found["shrinkage"] == pytest.approx(0.5, rel=1e-3)


def test_what_is_on_in_no_sample_is_still_a_feature():
    found = d.groups_of(np.zeros((0, 5)))
    assert sorted(np.concatenate(list(found.values()))) == list(range(5))
    with pytest.raises(ValueError, match="level must be of the 5 features"):
        d.groups_of(np.zeros((3, 5)), np.zeros(4, int))
    assert len(d.cuts(np.zeros((3, 0)))) == 0
    for empty in (d.Firing(*np.zeros((3, 2), int), 0), d.Firing(*np.zeros((3, 0), int), 9)):
        with pytest.raises(ValueError, match="nothing to score"):
            d.detection(empty)


def test_least_magnitudes_are_rules_of_one_or_of_one_for_each():
    truth, codes = sparse_codes(30, 4), sparse_codes(30, 3)
    nearest, rule = np.array([0, 3, 1]), np.array([0.1, 0.2, 0.3])
    assert len(d.count(nearest, truth, codes, [rule, 0.5])) == 2
    for wrong in (rule, 0.3, None):
        with pytest.raises(ValueError, match="must be a tuple of rules"):
            d.count(nearest, truth, codes, wrong)
    for wrong in (rule[:2], -1.0, np.nan, "a", [0.1, -0.1, 0.1]):
        with pytest.raises(ValueError, match=r"^least must be"):
            d.count(nearest, truth, codes, (wrong,))
        with pytest.raises(ValueError, match=r"^least must be"):
            d.absorption(np.array([-1, 0, 0, -1]), np.array([2, 0, -1, 1]), truth, codes, wrong)


def test_indices_of_nothing_are_refused():
    truth, codes = sparse_codes(30, 4), sparse_codes(30, 3)
    nearest, parent, partner = np.array([0, 3, 1]), np.array([-1, 0, 0, -1]), np.array([2, 0, -1, 1])
    d.count(nearest, truth, codes)
    d.absorption(parent, partner, truth, codes)

    def refused(name, call):
        with pytest.raises(ValueError, match=rf"^{name} [^\n]*\.$"):
            call()

    for wrong in (np.array([0, 4, 1]), np.array([0, -1, 1]), np.array([0.0, 3.0, 1.0]), nearest[:, None]):
        refused("nearest", lambda wrong=wrong: d.count(wrong, truth, codes))
    for wrong in (np.array([-1, 4, 0, -1]), np.array([-1, -2, 0, -1]), parent.astype(float)):
        refused("parent", lambda wrong=wrong: d.absorption(wrong, partner, truth, codes))
    for wrong in (np.array([3, 0, -1, 1]), np.array([2, -2, -1, 1]), partner.astype(float)):
        refused("partner", lambda wrong=wrong: d.absorption(parent, wrong, truth, codes))
    refused("parent and partner", lambda: d.absorption(parent[:3], partner, truth, codes))
    refused("parent and partner", lambda: d.absorption(parent, partner[:3], truth, codes))
    refused("parent and partner", lambda: d.absorption(parent, partner, truth[:, :3], codes))


def inferred(n=40, width=5, **changes):
    truth, codes = unit(6, 8), {name: sparse_codes(n, width) for name in ("id", "ood")}
    splits = [
        Split(RNG.standard_normal((n, 6)).astype(np.float32), scipy.sparse.csr_array(sparse_codes(n, 8))) for _ in range(2)
    ]
    tree = Tree(np.array([-1, 0, 0, -1, -1, -1, -1, -1]), np.array([0, 1, 1, -1, -1, -1, -1, -1]))
    parts = {"task": Task(splits[0], *splits, dictionary=truth, width=width, tree=tree)} | {
        "model": Model(unit(6, width), np.zeros(6))
    }
    return Inferred(**parts | {"codes": codes, "optimum": {}, "lam": 1.0, "protocol": "strict"} | changes)


def test_measure_names_every_score_of_both_splits():
    one = inferred()
    found = d.measure(one)
    per_split = ("r2", "shrinkage", "precision", "recall", "f1", "detector_accuracy", "fired", "dead")
    assert {f"{name}_{split}" for name in per_split for split in ("id", "ood")} < set(found)
    assert {"atom_mcc", "uniqueness", "atom_mcc_rare", "cut_f1_ood", "cut_dead_id"} < set(found)
    nearest = d.nearest_features(one.model.dictionary, one.task.dictionary)
    least = d.cuts(one.codes["id"])
    (cut,) = d.count(nearest, one.task.ood.codes, one.codes["ood"], (least,))
    assert found["cut_f1_ood"] == d.detection(cut)["f1"] != found["f1_ood"]


def test_measure_scores_each_split_by_its_own_samples_and_families_by_the_tree():
    one = inferred(400, 8)
    found, (learned, task, match) = d.measure(one), (one.model.dictionary, one.task, one.match)
    least = d.cuts(one.codes["id"])
    for name in ("id", "ood"):
        split, codes = getattr(task, name), one.codes[name]
        own = d.explained(split.signals, learned, one.model.bias, codes)
        assert {metric: found[f"{metric}_{name}"] for metric in own} == own
        lost = d.absorption(task.tree.parent, match.learned, split.codes, codes, least)
        assert found[f"absorption_{name}"] == lost != d.absorption(task.tree.parent, match.learned, split.codes, codes)
    groups = d.groups_of(task.id.codes, task.tree.level)
    scores = d.atom_scores(match, 8, d.nearest_features(learned, task.dictionary), groups)
    assert {"atom_mcc_roots", "atom_mcc_children", "atom_mcc_free"} < scores.keys() and scores.items() <= found.items()


def test_measure_leaves_out_what_is_not_known():
    whole = inferred()
    no_truth = Task(*(Split(whole.task.id.signals) for _ in range(3)), dictionary=whole.task.dictionary, width=5)
    assert set(d.measure(inferred(task=no_truth))) == {
        f"{name}_{split}" for name in ("r2", "shrinkage") for split in ("id", "ood")
    }
    known = d.measure(all_known := inferred(400, 8))
    id_alone = dataclasses.replace(all_known.task, ood=Split(all_known.task.ood.signals), tree=None)
    found = d.measure(inferred(400, 8, task=id_alone))
    trees = {name for name in known if re.search("roots|children|free|absorption", name)}
    detected = {name for name in known if name.endswith("_ood") and not name.startswith(("r2", "shrinkage"))}
    assert len(trees) == 5 and len(detected) > 6 and set(found) == set(known) - trees - detected
    assert d.measure(inferred(model=Model(None, np.zeros(6)))) == {}

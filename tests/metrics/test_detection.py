"""Detectors, by hand and by loops; what is sparse scores as what is dense."""

import dataclasses
import re

import numpy as np
import pytest

from sae_gap import catalogue
from sae_gap.core import Split, nearest_atoms
from sae_gap.metrics import Firing, atom_scores, count, groups_of
from sae_gap.metrics.absorption import absorption
from sae_gap.metrics.cuts import cuts
from sae_gap.metrics.detection import detection
from sae_gap.metrics.explained import explained
from tests.metrics.samples import RNG, forms, inferred, sparse_codes


def test_detection_by_hand():
    # The first latent fires in 3 of 5 samples, its feature in 2, both in 1; the second never; the
    # third wherever its own does.
    firing = Firing(np.array([3, 0, 2]), np.array([2, 1, 2]), np.array([1, 0, 2]), 5)
    found = detection(firing)
    assert found["precision"] == pytest.approx((1 / 3 + 0 + 1) / 3) and found[
        "recall"
    ] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert found["f1"] == pytest.approx((2 * (1 / 6) / (5 / 6) + 0 + 1) / 3)
    assert found["detector_accuracy"] == pytest.approx((2 / 5 + 4 / 5 + 1) / 3)
    assert (found["fired"], found["dead"]) == (1.0, 1)
    silent = detection(Firing(np.array([2]), np.array([0]), np.array([0]), 5))
    assert (silent["precision"], silent["recall"], silent["f1"]) == (0, 0, 0)


@pytest.mark.parametrize("form", [0, 1])
def test_counts_are_those_of_loops(form, monkeypatch):
    truth, codes = (
        sparse_codes(23, 6),
        sparse_codes(23, 4) * RNG.choice([-1, 1], (23, 4)).astype(np.float32),
    )
    # What is below zero is off.
    truth[4:8] *= -1
    nearest, least = np.array([5, 0, 0, 3]), np.array([0.3, 0.0, 0.8, 2.0])
    monkeypatch.setattr("sae_gap.core.codes._AT_ONCE", 30)
    found = count(nearest, forms(truth)[form], forms(codes)[form], (0.0, least))
    for firing, bound in zip(found, (np.zeros(4), least), strict=True):
        fired, true, both = np.zeros(4, int), np.zeros(4, int), np.zeros(4, int)
        for row in range(23):
            for latent in range(4):
                on, present = (
                    abs(codes[row, latent]) > bound[latent],
                    truth[row, nearest[latent]] > 0,
                )
                fired[latent] += on
                true[latent] += present
                both[latent] += on and present
        assert [part.tolist() for part in firing[:3]] == [
            part.tolist() for part in (fired, true, both)
        ]
        assert firing.samples == 23


def test_the_magnitude_of_the_least_integer_is_counted():
    assert count(np.zeros(1, int), sparse_codes(1, 1, share=1.0), np.array([[-128]], np.int8))[
        0
    ].fired.tolist() == [1]


TOPICS = ("explained", "atoms", "detection", "absorption")


def measure(one):
    return {
        name: value for topic in TOPICS for name, value in catalogue.metrics()[topic](one).items()
    }


def test_measure_scores_each_split_by_its_own_samples_and_families_by_the_tree():
    one = inferred(400, 8)
    found, (learned, task, match) = measure(one), (one.model.dictionary, one.task, one.match)
    least = cuts(one.codes["id"])
    for name in ("id", "ood"):
        split, codes = getattr(task, name), one.codes[name]
        own = explained(split.signals, learned, one.model.bias, codes)
        assert {metric: found[f"{metric}_{name}"] for metric in own} == own
        lost = absorption(task.tree.parent, match.learned, split.codes, codes, least)
        assert (
            found[f"absorption_{name}"]
            == lost
            != absorption(task.tree.parent, match.learned, split.codes, codes)
        )
    groups = groups_of(task.id.codes, task.tree.level)
    scores = atom_scores(match, 8, nearest_atoms(learned, task.dictionary), groups)
    assert {
        "atom_mcc_roots",
        "atom_mcc_children",
        "atom_mcc_free",
    } < scores.keys() and scores.items() <= found.items()


def test_measure_leaves_out_what_is_not_known():
    known = measure(all_known := inferred(400, 8))
    id_alone = dataclasses.replace(all_known.task, ood=Split(all_known.task.ood.signals), tree=None)
    found = measure(inferred(400, 8, task=id_alone))
    trees = {name for name in known if re.search("roots|children|free|absorption", name)}
    detected = {
        name for name in known if name.endswith("_ood") and not name.startswith(("r2", "shrinkage"))
    }
    assert len(trees) == 5 and len(detected) > 6 and set(found) == set(known) - trees - detected

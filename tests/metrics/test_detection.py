"""Detectors, cuts and absorption, by hand, by loops and by trying every threshold."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse

from sae_gap.core import Model, Split, Task, Tree
from sae_gap.metrics import Firing, Inferred, count
from sae_gap.metrics.detection import ABSORPTION, METRIC, absorption, detection
from sae_gap.metrics.metric import cuts

RNG = np.random.default_rng(0)


def sparse_codes(n, width, share=0.2):
    return np.where(RNG.random((n, width)) < share, RNG.random((n, width)) + 0.1, 0)


def test_detection_by_hand():
    # The first latent fires in 3 of 5 samples, its feature in 2, both in 1; the second never; the
    # third wherever its own does.
    firing = Firing(np.array([3, 0, 2]), np.array([2, 1, 2]), np.array([1, 0, 2]), 5)
    assert detection(firing) == pytest.approx(
        {
            "precision": (1 / 3 + 0 + 1) / 3,
            "recall": (1 / 2 + 0 + 1) / 3,
            "f1": (2 * (1 / 6) / (5 / 6) + 0 + 1) / 3,
            "detector_accuracy": (2 / 5 + 4 / 5 + 1) / 3,
            "fired": 1,
            "dead": 1,
        }
    )


@pytest.mark.parametrize("least", [0, np.array([0.3, 0.0, 0.8, 2.0])])
def test_firings_are_counted_above_a_latents_magnitude(least):
    truth, codes = sparse_codes(23, 6), sparse_codes(23, 4) * RNG.choice([-1, 1], (23, 4))
    # What is below zero is off.
    truth[4:8] *= -1
    nearest = np.array([5, 0, 0, 3])
    on, present = np.abs(codes) > least, truth[:, nearest] > 0
    found = count(nearest, truth, codes, least)
    wanted = [np.sum(part, axis=0) for part in (on, present, on & present)]
    np.testing.assert_array_equal(found[:3], wanted)
    assert found.samples == 23


def test_splits_are_scored_above_the_cuts_of_the_id_split():
    """And absorption by the tree, or nothing where what it needs is not known."""
    truth = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    held = Split(np.ones((400, 8)), sparse_codes(400, 8, 0.4))
    tree = Tree(np.array([-1, 0, 0, *[-1] * 5]), np.array([0, 1, 1, *[-1] * 5]))
    task = Task(held, Split(held.signals), held, dictionary=truth, width=8, tree=tree)
    codes = {name: sparse_codes(400, 8) ** 3 for name in ("id", "ood")}
    # Latents are features in reverse, of half the length.
    given = Inferred(task, Model(truth[:, ::-1] / 2, np.zeros(8)), codes, {}, 1.0, "strict")
    order, told = np.arange(8)[::-1], (held.codes, codes["ood"], cuts(codes["id"]))
    above, every = detection(count(order, *told)), detection(count(order, *told[:2]))
    wanted = {f"{name}_ood": value for name, value in every.items()}
    assert METRIC(given) == wanted | {f"cut_{name}_ood": value for name, value in above.items()}
    assert ABSORPTION(given) == {"absorption_ood": absorption(tree.parent, order, *told)}
    assert ABSORPTION(dataclasses.replace(given, task=dataclasses.replace(task, tree=None))) == {}


@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.8])
def test_a_cut_is_the_least_that_is_its_own_share(share):
    codes = np.abs(RNG.normal(size=(400, 6))) ** 4 * (RNG.random((400, 6)) < 0.4)
    for z, cut in zip(codes.T, cuts(codes, share), strict=True):

        def of(kept):
            return share * (kept**2).sum() / kept.sum()

        tried = [of(z[z >= least]) for least in z[z > 0]]
        assert cut == pytest.approx(min(c for c in tried if np.isclose(c, of(z[z > c]))))
    assert cuts(np.pad(codes, ((0, 0), (0, 1))))[6] == 0
    # At any scale that the type has.
    for scale in (1e-300, 1e160):
        np.testing.assert_allclose(cuts(codes * scale, share) / scale, cuts(codes, share))


@pytest.mark.parametrize("few", [(9, 30), (30, 9), (10, 10)])
def test_absorption_is_the_recall_that_a_child_takes(few):
    # Feature 0 has the children 1 and 2, feature 3 the child 4; feature 5 is free.
    parent, partner = np.array([-1, 0, 0, -1, 3, -1]), np.array([2, 0, 1, 3, -1, 4])
    truth, codes = np.zeros((100, 6)), np.zeros((100, 5))
    truth[:40, 0], truth[:10, 1], truth[10:20, 2] = 1, 1, 1
    # Latent 2 of feature 0: in 5 of the 20 samples with a child, in 18 of the 20 without.
    codes[15:38, 2] = 1
    codes[0, 2] = 0.05
    # Latent 3 of feature 3, which counts from ten samples of either kind: in none with its child.
    truth[40 : 40 + few[0], 3:5], truth[-few[1] :, 3], codes[-few[1] :, 3] = 1, 1, 1
    # Signed codes fire by their size.
    for least, sign, beside in ((0.1, 1, 5), (0, -1, 6), ([9, 9, 0.1, 0, 9], 1, 5)):
        found = absorption(parent, partner, scipy.sparse.csr_array(truth), sign * codes, least)
        lost = [18 / 20 - beside / 20, 1]
        assert found == pytest.approx(np.mean(lost[: 1 + (few == (10, 10))]))
    partner[[0, 3]] = -1
    assert absorption(parent, partner, truth, codes) is None
    assert absorption(np.full(6, -1), partner, truth, codes) is None

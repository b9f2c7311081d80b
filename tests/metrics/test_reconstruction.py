"""Variance explained and shrinkage by their formulas, what an input tells of a target, against
scikit-learn; detectors, cuts and absorption, by hand, by loops and by trying every threshold.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse
from numpy import array
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, mark, raises
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

from sae_gap.core import Model, Split, Task, Tree
from sae_gap.encoders import BatchPursuit, Predicted
from sae_gap.encoders.elsewhere import Known
from sae_gap.metrics import Inferred, Overlap, cuts, fvu, reconstruction
from sae_gap.metrics.detection import (
    ABSORPTION,
    METRIC,
    absorption,
    count,
    detection,
)
from sae_gap.metrics.reconstruction import PREDICTABILITY
from sae_gap.study import Inference


def test_explained_is_by_its_formula():
    rng = default_rng(0)
    codes = rng.random((30, 4)) * (rng.random((30, 4)) < 0.3)
    atoms = 2 * rng.normal(size=(5, 4))
    drawn = codes @ atoms.T + np.arange(5)
    kept = np.arange(30) != 7
    x = (drawn + 0.3 * rng.normal(size=(30, 5))) * kept[:, None]
    task = Task(*[Split(x)] * 3, width=4, dictionary=atoms)
    model = Model(atoms, np.arange(5.0))
    given = Inferred(
        task, model, dict.fromkeys(("id", "ood"), codes), {}, 1.0, "strict"
    )
    lengths = (norm(part[kept], axis=1) for part in (drawn, x))
    wanted = {
        "r2": r2_score(x, drawn, multioutput="variance_weighted"),
        "shrinkage": np.mean(np.divide(*lengths)),
    }
    wanted = {
        f"{name}_{split}": wanted[name] for name in wanted for split in ("id", "ood")
    }
    assert reconstruction.EXPLAINED(given) == approx(wanted)


def test_a_reconstruction_is_scored_by_document_on_rows_that_count():
    rng = default_rng(0)
    x = rng.normal(3, 1, (30, 5)).astype("f")
    z = np.eye(30, 5, dtype="f")
    counts = np.arange(30) > 2
    documents = np.arange(30) // 10
    model = Model(np.eye(5, dtype="f"), np.full(5, 3, "f"))
    held = Split(x, counts=counts, documents=documents)
    given = Inferred(Task(held, held, held, width=5), model, {"id": z}, {}, 0.1, "")
    found = reconstruction.METRIC(given)
    kept = x[3:]
    errors = (x - z - 3) ** 2, (x - kept.mean(axis=0)) ** 2
    for name, part in zip(("errors", "variance"), errors, strict=True):
        sums = [part[counts & (documents == each)].sum() for each in range(3)]
        assert found[name] == approx(sums, rel=1e-5)
    assert found["fvu"] == approx(errors[0][3:].sum() / errors[1][3:].sum())
    assert (found["l0"], found["fired"]) == (2 / 27, 2)


def test_fvu_is_one_for_the_mean():
    x = default_rng(0).normal(3, 2, size=(50, 4))
    assert fvu(x, np.tile(x.mean(axis=0), (50, 1))) == approx(1) and fvu(x, x) == 0
    assert fvu(7 * x, 7 * (x + 1)) == approx(fvu(x, x + 1))
    for given, words in (
        ((x, x[:3]), "one shape"),
        ((np.ones((3, 2)),) * 2, "no variance"),
    ):
        with raises(ValueError, match=words):
            fvu(*given)


def test_bounds_are_those_of_scikit_learn():
    """Of inputs with a large mean, on rows that count."""
    rng = default_rng(0)
    x = (rng.normal(size=(600, 6)) + 1e4).astype(np.float32)
    y = (np.abs(x - 1e4) @ rng.normal(size=(6, 5)) + 3).astype(np.float32)
    held = Split(y[400:], inputs=x[400:], counts=np.arange(200) < 150)
    task = Task(Split(y[:400], inputs=x[:400]), held, held, width=10)
    encoder = Predicted(
        BatchPursuit(2), known=Known(lambda inputs: inputs[:, :5] - 1e4)
    )
    inference = Inference(task, Model(np.ones((5, 10)), np.zeros(5)))
    given = Inferred(task, None, {}, {}, 0.1, "", encoder=encoder, inference=inference)
    guesses = {"network": x[400:550, :5] - 1e4}
    for name, kind in (
        ("ridge", LinearRegression()),
        ("neighbours", KNeighborsRegressor(10)),
    ):
        guesses[name] = kind.fit(x[:400].astype(float), y[:400]).predict(
            x[400:550].astype(float)
        )
    wanted = {f"{name}_fvu": fvu(y[400:550], guess) for name, guess in guesses.items()}
    assert PREDICTABILITY(given) == approx(wanted | {"network_rows": 400}, rel=1e-3)
    # Codes that know the target predict nothing.
    assert PREDICTABILITY(replace(given, encoder=BatchPursuit(2))) == {}


RNG = default_rng(0)


def sparse_codes(n, width, share=0.2):
    return np.where(RNG.random((n, width)) < share, RNG.random((n, width)) + 0.1, 0)


def test_detection_by_hand():
    # The first latent fires in 3 of 5 samples, its feature in 2, both in 1; the second never; the
    # third wherever its own does.
    firing = Overlap(array([3, 0, 2]), array([2, 1, 2]), array([1, 0, 2]))
    assert detection(firing, 5) == approx(
        {
            "precision": (1 / 3 + 0 + 1) / 3,
            "recall": (1 / 2 + 0 + 1) / 3,
            "f1": (2 * (1 / 6) / (5 / 6) + 0 + 1) / 3,
            "detector_accuracy": (2 / 5 + 4 / 5 + 1) / 3,
            "fired": 1,
            "dead": 1,
        }
    )


@mark.parametrize("least", [0, array([0.3, 0.0, 0.8, 2.0])])
def test_firings_are_counted_above_a_latents_magnitude(least):
    truth = sparse_codes(23, 6)
    codes = sparse_codes(23, 4) * RNG.choice([-1, 1], (23, 4))
    # What is below zero is off.
    truth[4:8] *= -1
    nearest = array([5, 0, 0, 3])
    on = np.abs(codes) > least
    present = truth[:, nearest] > 0
    found = count(nearest, truth, codes, least)
    wanted = [np.sum(part, axis=0) for part in (on, present, on & present)]
    assert_array_equal(found, wanted)


def test_splits_are_scored_above_the_cuts_of_the_id_split():
    """And absorption by the tree, or nothing where what it needs is not known."""
    truth = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    held = Split(np.ones((400, 8)), sparse_codes(400, 8, 0.4))
    tree = Tree(array([-1, 0, 0, *[-1] * 5]), array([0, 1, 1, *[-1] * 5]))
    task = Task(held, Split(held.signals), held, dictionary=truth, width=8, tree=tree)
    codes = {name: sparse_codes(400, 8) ** 3 for name in ("id", "ood")}
    # Latents are features in reverse, of half the length.
    given = Inferred(
        task, Model(truth[:, ::-1] / 2, np.zeros(8)), codes, {}, 1.0, "strict"
    )
    order = np.arange(8)[::-1]
    told = (held.codes, codes["ood"], cuts(codes["id"]))
    above = detection(count(order, *told), 400)
    every = detection(count(order, *told[:2]), 400)
    wanted = {f"{name}_ood": value for name, value in every.items()}
    assert METRIC(given) == wanted | {
        f"cut_{name}_ood": value for name, value in above.items()
    }
    assert ABSORPTION(given) == {
        "absorption_ood": absorption(tree.parent, order, *told)
    }
    assert ABSORPTION(replace(given, task=replace(task, tree=None))) == {}


@mark.parametrize("share", [0.1, 1 / 3, 0.8])
def test_a_cut_is_the_least_that_is_its_own_share(share):
    codes = np.abs(RNG.normal(size=(400, 6))) ** 4 * (RNG.random((400, 6)) < 0.4)
    for z, cut in zip(codes.T, cuts(codes, share), strict=True):

        def of(kept):
            return share * (kept**2).sum() / kept.sum()

        tried = [of(z[z >= least]) for least in z[z > 0]]
        assert cut == approx(min(c for c in tried if np.isclose(c, of(z[z > c]))))
    assert cuts(np.pad(codes, ((0, 0), (0, 1))))[6] == 0
    # At any scale that the type has.
    for scale in (1e-300, 1e160):
        assert_allclose(cuts(codes * scale, share) / scale, cuts(codes, share))


@mark.parametrize("few", [(9, 30), (30, 9), (10, 10)])
def test_absorption_is_the_recall_that_a_child_takes(few):
    # Feature 0 has the children 1 and 2, feature 3 the child 4; feature 5 is free.
    parent = array([-1, 0, 0, -1, 3, -1])
    partner = array([2, 0, 1, 3, -1, 4])
    truth = np.zeros((100, 6))
    codes = np.zeros((100, 5))
    truth[:40, 0], truth[:10, 1], truth[10:20, 2] = 1, 1, 1
    # Latent 2 of feature 0: in 5 of the 20 samples with a child, in 18 of the 20 without.
    codes[15:38, 2] = 1
    codes[0, 2] = 0.05
    # Latent 3 of feature 3, which counts from ten samples of either kind: in none with its child.
    truth[40 : 40 + few[0], 3:5], truth[-few[1] :, 3], codes[-few[1] :, 3] = 1, 1, 1
    # Signed codes fire by their size.
    for least, sign, beside in ((0.1, 1, 5), (0, -1, 6), ([9, 9, 0.1, 0, 9], 1, 5)):
        found = absorption(
            parent, partner, scipy.sparse.csr_array(truth), sign * codes, least
        )
        lost = [18 / 20 - beside / 20, 1]
        assert found == approx(np.mean(lost[: 1 + (few == (10, 10))]))
    partner[[0, 3]] = -1
    assert absorption(parent, partner, truth, codes) is None
    assert absorption(np.full(6, -1), partner, truth, codes) is None

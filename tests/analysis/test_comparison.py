"""Comparisons: their interval by leaving each document out, how often it holds the truth, and their
words.
"""

import numpy as np
import pytest
import scipy.signal
import scipy.stats

from sae_gap.analysis import Comparison, interval
from sae_gap.analysis.comparison import compare
from sae_gap.core import runs


def coverage(documents, skewed):
    """How often `interval` holds the truth, of documents of very unequal lengths.

    The variance and the difference of a document are its length, of a log-normal law whose
    logarithm deviates by 1, times factors of their own: of the variance log-normal, deviating by
    .3, and of the difference 2 + 3 t with t of Student's law of three degrees of freedom or, if
    `skewed`, log-normal, deviating by 1.
    """
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(0, 1, (4_000, documents))
    variance = lengths * rng.lognormal(0, 0.3, lengths.shape)
    factors = (
        rng.lognormal(0, 1, lengths.shape) if skewed else 2 + 3 * rng.standard_t(3, lengths.shape)
    )
    truth = (np.exp(0.5) if skewed else 2) / np.exp(0.3**2 / 2)
    low, high = interval(lengths * factors, variance)
    return np.mean((low <= truth) & (truth <= high))


def test_the_interval_is_of_student_by_leaving_each_document_out():
    own, best, far = np.array([[5.0, 1.0, 3.0, 2.0], [3.0, 0.9, 1.0, 1.9], [9.0, 4.0, 5.0, 6.0]])
    found = compare(best, own, far)
    assert found.one == pytest.approx(1 - best.sum() / far.sum())
    assert found.more == pytest.approx(4.2 / 24)
    without = [np.delete(own - best, i).sum() / np.delete(far, i).sum() for i in range(4)]
    spread = np.linalg.norm(np.array(without) - found.more)
    # Three or so documents of equal lengths.
    count = (81 + 16 + 25 + 36) ** 2 / (9**4 + 4**4 + 5**4 + 6**4)
    half = scipy.stats.t.ppf(0.975, count - 1) * spread
    assert [found.low, found.high] == pytest.approx([found.more - half, found.more + half])
    # More of the same documents are sure of the same difference, and which is first is its sign.
    many = [np.tile(each, 10) for each in (best, own, far)]
    assert compare(*many).sign == 1 and compare(many[1], many[0], many[2]).sign == -1
    assert compare(own, own, far)[:4] == (found.other, found.other, 0, 0)
    assert compare([1.0, 0.0], [2.0, 0.0], [4.0, 0.0])[2:4] == (-np.inf, np.inf)
    # A document that weighs nothing changes nothing.
    assert compare(*([*each, 0] for each in (best, own, far)))[:4] == pytest.approx(found[:4])


@pytest.mark.parametrize(("documents", "skewed"), [(3, False), (24, True)])
def test_intervals_hold_the_truth_as_often_as_they_say(documents, skewed):
    assert coverage(documents, skewed) > 0.92


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_intervals_over_runs_of_an_autoregressive_loss_hold_the_truth(correlation):
    """Another series, which correlates as far, decides the runs. Three deviations are allowed."""
    noise = np.random.default_rng(0).standard_normal((2, 400, 1_000))
    noise[..., 1:] *= np.sqrt(1 - correlation**2)
    held = 0
    for loss, other in zip(*scipy.signal.lfilter([1], [1, -correlation], noise), strict=True):
        members = runs(other)
        low, high = interval(np.bincount(members, loss), np.bincount(members))
        held += low <= 0 <= high
    assert abs(held - 380) < 3 * np.sqrt(380 * 0.05)


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (Comparison(0.935, 0.948, -0.017, -0.009), "1.3 points less (0.9 to 1.7)"),
        (Comparison(0.75, 0.5, -np.inf, np.inf), "25.0 points (no interval)"),
        (Comparison(0.93, 0.93, -0.002, 0.001), "0.0 points (-0.2 to 0.1)"),
        (Comparison(0.9304, 0.93, 0.0003, 0.0005), "0.04 points more (0.03 to 0.05)"),
        (Comparison(0.932, 0.93, 0.0001, 0.004), "0.20 points more (0.01 to 0.40)"),
        # The second explains more than its additional latents can.
        (Comparison(0.2, 0.8, -0.9, -0.3, (1.0, 1.5)), "60.0 points less (30.0 to 90.0)"),
    ],
)
def test_a_difference_is_told_in_points(comparison, text):
    assert str(comparison) == text

"""Metrics of a dictionary that is wider or narrower than the truth."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.catalogue import default_metrics
from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders.lasso import Lasso
from sae_gap.metrics.metric import Inferred


def scores(width):
    """Of true codes on true atoms that are reordered, turned round and longer; what a wider
    dictionary adds is never used.
    """
    rng = np.random.default_rng(0)
    truth = np.linalg.qr(rng.standard_normal((10, 10)))[0].astype(np.float32)[:, :6]
    codes = (rng.random((40, 6)) * (rng.random((40, 6)) < 0.4)).astype(np.float32)
    codes[:, 0] = np.arange(40) % 4 / 3
    split = Split(jnp.asarray(codes @ truth.T), jnp.asarray(codes))
    order = rng.permutation(6)
    atoms = np.hstack([-2 * truth[:, order], rng.standard_normal((10, 6))])[:, :width].astype(
        np.float32
    )
    found = np.hstack([-codes[:, order] / 2, np.zeros((40, 6))])[:, :width].astype(np.float32)
    model = Model(jnp.asarray(atoms), jnp.zeros(10))
    optimum = Lasso(0.1, nonneg=False).infer(model, split.signals)
    task = Task(split, split, split, dictionary=jnp.asarray(truth), width=width)
    splits = dict.fromkeys(("train", "id", "ood"), found)
    one = Inferred(task, model, splits, {"id": optimum, "ood": optimum}, 0.1, "strict")
    return {name: value for metric in default_metrics() for name, value in metric(one).items()}


@pytest.mark.parametrize("width", [4, 9])
def test_every_metric_is_that_of_the_atoms_that_are_there(width):
    found, share = scores(width), min(width, 6) / 6
    assert found["cosine"] == pytest.approx(share, abs=1e-6) and found["close"] == pytest.approx(
        share
    )
    assert found["norm_ratio"] == pytest.approx(2 * share)
    for split in ("id", "ood"):
        if width < 6:
            assert (
                found[f"mcc_{split}"] < 0.9
                and found[f"support_recall_{split}"] < 1 < 1e3 * found[f"mse_{split}"]
            )
        else:
            assert (
                found[f"mcc_{split}"] == pytest.approx(1, abs=1e-5)
                and found[f"mse_{split}"] < 1e-12
            )
            assert (
                found[f"support_f1_{split}"] == pytest.approx(1) and found[f"accuracy_{split}"] == 1
            )
        assert found[f"gap_{split}"] > 0 and found[f"certificate_{split}"] < 1e-5

"""What a result is named by: whatever changes it changes its key, and nothing else does."""

import dataclasses

import jax
import numpy as np
import pytest

from sae_gap import Method, Recording, Setting
from sae_gap.catalogue import default_metrics
from sae_gap.core import identity
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.topk import TopK
from sae_gap.learners.oracle import Oracle
from sae_gap.metrics.metric import Metric
from sae_gap.study import job
from tests.tiny import METHODS, SAE, SETTING, make


def keys_of(a_study):
    return {line.key for one in job.jobs(a_study) for line in one.lines}


@pytest.mark.parametrize(
    "other",
    [
        make(lam=0.2, methods=METHODS[:2]),
        make(protocol="paper"),
        make(Setting(20, 3, 200, seed=2)),
        make(Setting(20, 3, 202)),
        make(Setting(20, 2, 200, input_dim=12)),
        make(Setting(30, 3, 200)),
        make(Setting(20, 3, 200, noise_db=20.0)),
        make(Setting(20, 3, 200, input_dim=13)),
        make(Setting(20, 3, 200, stream=True)),
        make(methods=[Method("sae", "sae", dataclasses.replace(SAE, num_steps=3), TopK(3))]),
        make(methods=[Method("sae", "sae", dataclasses.replace(SAE, learning_rate=1e-3), TopK(3))]),
        make(methods=[Method("sae", "sae", dataclasses.replace(SAE, base=Oracle()), TopK(3))]),
        make(methods=[Method("sae", "sae", SAE, TopK(4))]),
        make(methods=[Method("other", "sae", SAE, TopK(3))]),
        make(methods=[Method("sae", "sae", SAE, TopK(3), {"start": "warm"})]),
        make(methods=[Method("sae", "sae", SAE, TopK(3), at=(1,))]),
        make(methods=[Method("sae", "sae", SAE, TopK(3), at=(2,))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(0.2))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(start=TopK(3)))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(nonneg=False))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(unit_atoms=False))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(tol=None, max_iterations=10))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(momentum=False))]),
        make(metrics=default_metrics()[:-1]),
        make(metrics=(*default_metrics(), Metric("none", lambda inferred: {}))),
        dataclasses.replace(make(), name="other"),
    ],
)
def test_whatever_changes_a_result_changes_its_key(other):
    assert len(keys_of(other)) in (1, 2, 4, 8)
    assert not keys_of(other) & keys_of(make())


def test_steps_have_keys_of_their_own():
    def at(*steps):
        return make(SETTING, methods=[Method("sae", "sae", SAE, TopK(3), at=steps)])

    assert keys_of(at(0)) < keys_of(at(0, 1)) and len(keys_of(at(0, 1, 2))) == 3
    assert not keys_of(at()) & keys_of(at(0, 1, 2))


def test_what_else_is_run_does_not_change_a_key():
    assert keys_of(make(SETTING, methods=METHODS[1:2])) < keys_of(make())
    assert keys_of(make(Setting(20, 3, 200, seed=1), Setting(30, 3, 200))) & keys_of(make())


def test_another_precision_changes_every_key(monkeypatch):
    with jax.default_matmul_precision("bfloat16"):
        rounded = keys_of(make())
    with jax.enable_x64(True):
        wide = keys_of(make())
    here = keys_of(make())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = keys_of(make())
    assert len(rounded | wide | here | there) == 4 * len(here)


def test_a_raised_version_changes_the_key_and_moving_a_class_does_not(monkeypatch):
    def keys(encoder):
        return keys_of(make(methods=[Method("frozen", "frozen", SAE, encoder)]))

    before = keys(Lasso())
    monkeypatch.setattr(Lasso, "__module__", "sae_gap.elsewhere")
    assert keys(Lasso()) == before
    monkeypatch.setattr(Lasso, "version", 7, raising=False)
    assert not keys(Lasso()) & before
    monkeypatch.undo()
    monkeypatch.setattr(identity, "NUMERICS", identity.NUMERICS + 1)
    assert not keys(Lasso()) & before


def test_a_metric_with_another_version_changes_every_key():
    first, second = (Metric("third", lambda inferred: {}, version=version) for version in (1, 2))
    assert not keys_of(make(metrics=(first,))) & keys_of(make(metrics=(second,)))


def test_a_recording_is_known_by_its_content(tmp_path, arrays):
    np.savez(tmp_path / "with_truth.npz", **arrays)
    recording = Recording(tmp_path / "with_truth.npz", sparsity=3)
    before = keys_of(make(recording))
    moved = Recording(recording.path.rename(tmp_path / "moved.npz"), sparsity=3)
    assert keys_of(make(moved)) == before
    np.savez(moved.path, **arrays | {"Y_val": arrays["Y_val"] + 1})
    assert not keys_of(make(moved)) & before

"""Learners of one size are fitted together, before codes are inferred, where nothing speaks against it."""

import concurrent.futures
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Method, Model, Models, Setting, Store, run
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.topk import TopK
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.learner import Learner
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.study import models, runner
from tests.tiny import METHODS, SAE, SETTING, Recorded, make, timeless

LONGER = dataclasses.replace(SAE, num_steps=3)
FROM_SAE = DLFista(num_steps=2, num_iterations=2, base=SAE)
AHEAD = (
    METHODS[0],
    METHODS[1],
    Method("longer", "sae", LONGER, TopK(3)),
    Method("from_sae", "dictionary_learning", FROM_SAE, Lasso()),
)


@pytest.fixture
def events(monkeypatch):
    """Fits and jobs in the order in which they begin, on a machine of two cores."""
    seen, fit, job = [], models.fit, runner._run_job

    def fitting(learner, *args, **options):
        seen.append(f"fit {type(learner).__name__} {learner.num_steps}")
        return fit(learner, *args, **options)

    def running(study, one, *args):
        seen.append(str(one))
        return job(study, one, *args)

    monkeypatch.setattr(models, "fit", fitting)
    monkeypatch.setattr(runner, "_run_job", running)
    monkeypatch.setattr(runner.fitting, "at_once", lambda: 2)
    return seen


def test_learners_are_fitted_together_before_codes_are_inferred(tmp_path, events, monkeypatch):
    told = Recorded()
    rows = run(make(methods=AHEAD), Store(tmp_path / "ahead"), progress=told)
    before, after = events[: events.index("linear_probe")], events[events.index("linear_probe") :]
    # The base that two of them share is fitted once.
    assert sorted(before) == ["fit DLFista 2", "fit SparseAutoencoder 2", "fit SparseAutoencoder 3"]
    assert after == ["linear_probe", "fit LinearProbe 0", "sae", "longer", "from_sae"]
    assert told.said[:2] == [("begin", 4, 0), ("ahead", ["sae", "longer", "from_sae"], 6)]
    early = told.said[: told.said.index(("start", 1, "linear_probe"))]
    assert {said[1:3] for said in early if said[0] == "fit"} == {
        (name, s) for name in ("sae", "longer", "from_sae") for s in (0, 1)
    }
    assert sorted(said for said in early if said[0] == "fitted") == [("fitted", name) for name in ("from_sae", "longer", "sae")]
    events.clear()
    one_by_one = run(make(methods=AHEAD, timed=True), Store(tmp_path / "one_by_one"))
    assert events[:4] == ["linear_probe", "fit LinearProbe 0", "sae", "fit SparseAutoencoder 2"]
    assert timeless(rows) == timeless(one_by_one)


@pytest.fixture
def in_order(monkeypatch):
    """What is fitted together begins in its order, one at a time."""
    pool = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", lambda _: pool(1))


def test_a_base_that_is_scored_along_its_fit_is_fitted_once(tmp_path, events, in_order):
    # The second step is no landmark, and so not there unless it is asked for.
    along = Method("along", "sae", LONGER, TopK(3), at=(2, 3))
    # It takes longer than its base, and so would come first.
    rests = Method("rests", "dictionary_learning", DLFista(num_steps=30, num_iterations=30, base=LONGER), Lasso())
    rows = run(make(methods=(along, rests)), Store(tmp_path))
    assert events[:2] == ["fit SparseAutoencoder 3", "fit DLFista 30"] and len(events) == 4 and len(rows) == 6


def test_what_a_base_has_come_to_is_no_share_of_the_learner_that_waits_for_it(tmp_path, events):
    told, rests = Recorded(), DLFista(num_steps=2, num_iterations=2, base=LONGER)
    methods = (AHEAD[1], Method("rests", "dictionary_learning", rests, Lasso()))
    run(make(methods=methods), Store(tmp_path), progress=told)
    assert "fit SparseAutoencoder 3" in events
    for seed in (0, 1):
        assert [said[3] for said in told.said if said[:3] == ("fit", "rests", seed)] == [0.5, 1.0, 1.0]


def test_each_cell_is_fitted_in_its_turn(tmp_path, events):
    sources = (SETTING, Setting(20, 3, 100))
    run(make(*sources, methods=AHEAD[1:3]), Store(tmp_path))
    assert [sorted(events[:2]), events[2:4]] == [["fit SparseAutoencoder 2", "fit SparseAutoencoder 3"], ["sae", "longer"]]
    assert len(events) == 8 and events[6:] == ["sae", "longer"]


def test_the_longest_fit_begins_first(tmp_path, events, in_order):
    run(make(methods=AHEAD), Store(tmp_path))
    assert events[:2] == ["fit SparseAutoencoder 3", "fit SparseAutoencoder 2"]


def test_a_fit_that_fails_beside_others_is_made_again_in_its_turn(tmp_path, events, monkeypatch, caplog):
    fit = models.fit

    def failing(learner, *args, **options):
        if learner.num_steps == 3:
            events.append("failed")
            raise ValueError("no memory for it.")
        return fit(learner, *args, **options)

    monkeypatch.setattr(models, "fit", failing)
    with pytest.raises(ValueError, match=r"^no memory for it\.$"):
        run(make(methods=AHEAD), Store(tmp_path))
    assert events.count("failed") == 2 and events[-1] == "failed"
    assert "longer could not be fitted beside others and is fitted again in its turn: no memory for it." in caplog.text
    assert [row["method"] for row in Store(tmp_path).rows()] == ["linear_probe", "linear_probe", "sae", "sae"]


class OnHost(Learner):
    """The first training samples as atoms, found in Python."""

    num_steps: int = eqx.field(static=True, default=1, kw_only=True)
    on_host = True

    def learn(self, data, *, num_latents, key):
        atoms = np.asarray(data.signals[:num_latents]).T
        return Model(jnp.asarray(atoms), jnp.zeros(len(atoms)))


HOST = Method("host", "peer", OnHost(), Lasso())
FROM_HOST = Method("from_host", "dictionary_learning", DLFista(num_steps=1, num_iterations=2, base=OnHost()), Lasso())


def test_what_runs_in_python_or_rests_on_it_has_nothing_beside_it(tmp_path, events):
    run(make(methods=(*AHEAD[1:3], HOST, FROM_HOST)), Store(tmp_path))
    assert sorted(events[:2]) == ["fit SparseAutoencoder 2", "fit SparseAutoencoder 3"]
    assert events[2:] == ["sae", "longer", "host", "fit OnHost 1", "from_host", "fit DLFista 1"]


@pytest.mark.parametrize("why", ["precision", "width", "one core"])
def test_where_it_would_not_do_learners_are_fitted_one_by_one(tmp_path, events, monkeypatch, why):
    if why == "width":
        monkeypatch.setattr(runner, "_TOGETHER", 20 * 100 * 2 - 1)
    if why == "one core":
        monkeypatch.setattr(runner.fitting, "at_once", lambda: 1)
    with jax.enable_x64(why == "precision"):
        rows = run(make(methods=AHEAD[1:3]), Store(tmp_path))
    assert events == ["sae", "fit SparseAutoencoder 2", "longer", "fit SparseAutoencoder 3"]
    assert {row["precision"] for row in rows} == {"float64" if why == "precision" else "float32"}


@pytest.mark.parametrize("folder", ["file/models", None])
def test_models_that_are_not_kept_are_fitted_once(tmp_path, events, folder):
    (tmp_path / "file").touch()
    run(make(methods=AHEAD[1:3]), Store(tmp_path / "rows"), models=Models(folder and tmp_path / folder))
    assert sorted(events) == ["fit SparseAutoencoder 2", "fit SparseAutoencoder 3", "longer", "sae"]


class Needy(SparseAutoencoder):
    """An SAE that data without a label of their own lack something for."""

    def needs(self, task):
        return "a label"


def test_what_cannot_say_what_it_needs_fails_in_its_turn(tmp_path, monkeypatch):
    def broken(self, task):
        raise ValueError("no idea.")

    monkeypatch.setattr(Needy, "needs", broken)
    needy = Method("needy", "sae", Needy(encoder=TopK(3), num_steps=4), TopK(3))
    told = Recorded()
    with pytest.raises(ValueError, match=r"^no idea\.$"):
        run(make(methods=(*AHEAD[1:3], needy)), Store(tmp_path), progress=told)
    assert told.said[-1] == ("end",)
    assert [row["method"] for row in Store(tmp_path).rows()] == ["sae", "sae", "longer", "longer"]


def test_what_lacks_something_is_not_fitted_ahead(tmp_path, events):
    needy = Method("needy", "sae", Needy(encoder=TopK(3), num_steps=4), TopK(3))
    rows = run(make(methods=(*AHEAD[1:3], needy)), Store(tmp_path))
    assert {row["method"] for row in rows} == {"sae", "longer"} and "fit Needy 4" not in events

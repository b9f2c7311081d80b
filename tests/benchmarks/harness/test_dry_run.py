"""What a dry run promises, and where models may lie."""

import types

import pytest

from benchmarks.harness.dry_run import check_writable, plan
from sae_gap import Method
from sae_gap.encoders import Lasso
from sae_gap.storage import Store
from sae_gap.study import Models
from tests import tiny
from tests.study.test_models import OnHost


def run_of(study, rows, models):
    return types.SimpleNamespace(study=study, store=Store(rows), models=Models(models))


def test_a_model_that_several_jobs_need_is_counted_with_the_first(tmp_path):
    base = OnHost(num_steps=1)
    learners = [base, OnHost(num_steps=2, base=base), base, OnHost(num_steps=3)]
    methods = [Method(f"m{place}", "", learner, Lasso()) for place, learner in enumerate(learners)]
    said = plan(run_of(tiny.make(methods=methods), tmp_path, tmp_path)).splitlines()
    # Methods of one learner are one job.
    counts = [line.rpartition(": ")[2] for line in said[:-1]]
    assert counts == [f"0/{number} rows there, 2 to fit" for number in (4, 2, 2)]
    assert said[-1] == "3 jobs, 6 models to fit"


def test_models_that_are_all_there_may_lie_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    given = run_of(tiny.make(tiny.SETTING), tmp_path / "results", tmp_path / "file")
    with pytest.raises(ValueError, match="models cannot be kept in"):
        check_writable(given)
    monkeypatch.setattr(Models, "missing", lambda *_: [])
    check_writable(given)

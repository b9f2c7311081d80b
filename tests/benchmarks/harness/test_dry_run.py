"""What a dry run promises, from fits whose times are set by hand."""

import dataclasses

import pytest

from benchmarks.harness.dry_run import check_writable, plan
from sae_gap import Method
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.learner import Learner
from sae_gap.storage.results import Store
from sae_gap.study.models import Models
from tests import tiny


class Lasting(Learner):
    """A learner of so many minutes for 20 atoms, at the pace that is assumed where no fit is there to tell it."""

    minutes: float = 0.0
    on_host = True

    def work(self, num_samples, input_dim, num_latents):
        return 60e10 * self.minutes * num_latents / 20


def lasting(minutes, base=None):
    return Lasting(minutes, num_steps=1, base=base)


BASE = lasting(50)


@pytest.mark.parametrize(
    ("learners", "last"),
    [
        # 100 minutes, of which the dearest takes 50.
        ([lasting(30), lasting(50), lasting(20)], "about 50 min with --methods=m0,m2"),
        # Without the base's own method the one on it takes 65 minutes in the place of 15.
        ([BASE, lasting(15, BASE), lasting(20)], "about 20 min with --methods=m2"),
        # Methods of one learner go together.
        ([BASE, BASE, lasting(20)], "about 20 min with --methods=m2"),
        ([lasting(35), lasting(20)], "2 jobs, about 55 min"),
        ([lasting(61)], "1 jobs, about 61 min"),
    ],
)
def test_more_than_an_hour_comes_with_what_is_left_without_the_dearest(learners, last, tmp_path):
    methods = [Method(f"m{place}", "", learner, Lasso()) for place, learner in enumerate(learners)]
    said = plan(tiny.make(tiny.SETTING, methods=methods), set(), Models(tmp_path)).splitlines()
    assert said[-1].removesuffix(" of fitting on this machine, scoring apart") == last


def test_a_dictionary_twice_as_wide_takes_twice_as_long(tmp_path):
    wide = dataclasses.replace(tiny.SETTING, width=40)
    assert "1 jobs, about 20 min" in plan(
        tiny.make(wide, methods=[Method("m", "", lasting(10), Lasso())]), set(), Models(tmp_path)
    )


def test_models_that_are_all_there_may_lie_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    given = tiny.make(tiny.SETTING), Store(tmp_path / "results"), Models(tmp_path / "file")
    with pytest.raises(ValueError, match="models cannot be kept in"):
        check_writable(*given)
    monkeypatch.setattr(Models, "missing", lambda *_: [])
    check_writable(*given)

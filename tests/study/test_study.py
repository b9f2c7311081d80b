"""Methods and studies are data, checked where they are made."""

import pytest

from sae_gap import Method, Study
from sae_gap.encoders import Lasso, Linear, TopK
from sae_gap.learners import LinearProbe, Oracle
from tests.study.test_models import OnHost
from tests.tiny import METHODS, SAE, SETTING, make

FISTA, ISTA = (Lasso(tol=None, max_iterations=5, momentum=fast) for fast in (True, False))


@pytest.mark.parametrize(
    ("learner", "encoder", "columns"),
    [
        (SAE, TopK(3), "dictionary=topk inference=own"),
        # Another k is no longer the encoder that was trained.
        (SAE, TopK(4), "dictionary=topk inference=topk"),
        (SAE, Lasso(), "dictionary=topk inference=lasso start=cold lam=0.1"),
        (SAE, Lasso(start=TopK(3)), "dictionary=topk inference=lasso start=warm lam=0.1"),
        (SAE, FISTA, "dictionary=topk inference=fista start=cold iterations=5 lam=0.1"),
        (SAE, ISTA, "dictionary=topk inference=ista start=cold iterations=5 lam=0.1"),
        (Oracle(), Lasso(0.2), "dictionary=oracle inference=lasso start=cold lam=0.2"),
        (LinearProbe(), Linear(), "dictionary=linear_probe inference=linear"),
    ],
)
def test_what_a_method_varies_are_columns(learner, encoder, columns):
    found = Method("a", "family", learner, encoder).coordinates
    assert {f"{name}={value}" for name, value in found.items()} == {*columns.split()}
    own = Method("a", "family", learner, encoder, {"start": "mine", "depth": 3}).coordinates
    assert own == found | {"start": "mine", "depth": 3}


@pytest.mark.parametrize(
    ("learner", "at"),
    [*((SAE, at) for at in ((1, 1), (3,), (-1,))), (Oracle(), (1,)), (OnHost(), (2,))],
)
def test_steps_that_are_not_there_are_refused(learner, at):
    with pytest.raises(ValueError, match=r"^method 'mine' .* at is .*\.$"):
        Method("mine", "sae", learner, Lasso(), at=at)
    Method("mine", "sae", learner, Lasso(), at=(learner.num_steps,))
    Method("mine", "sae", SAE, Lasso(), at=(0, 2))


TWICE = [Method("frozen", "frozen", SAE, Lasso(tol=tol)) for tol in (1e-5, 1e-6)]


@pytest.mark.parametrize(
    ("make_wrong", "words"),
    [
        (lambda: Method("mine", "sae", SAE, lambda model, signals: signals), "a Learner and an"),
        (lambda: Method("mine", "sae", lambda: None, TopK(3)), "'mine' must have a Learner and an"),
        (lambda: make(protocol="Paper"), "protocol must be one of strict, paper"),
        (lambda: make(calibrate_on="id"), "calibrate_on must be one of scored, train"),
        (lambda: make(spread="seeds"), "spread must be one of jobs, rows"),
        (lambda: make(lam=-1.0), "lam must be a finite number"),
        (lambda: make(lam=float("nan")), "lam must be a finite number"),
        (lambda: make(methods=METHODS[:1] * 2), "methods must have .* linear_probe, linear_probe"),
        (lambda: make(methods=TWICE), "methods must have different names or coordinates"),
        (lambda: make(SETTING, SETTING), "sources must be different"),
        (lambda: Study("tiny", (), METHODS), "sources must have at least one"),
    ],
)
def test_methods_and_studies_are_checked_where_they_are_made(make_wrong, words):
    with pytest.raises(ValueError, match=words):
        make_wrong()

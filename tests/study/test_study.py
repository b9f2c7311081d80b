"""Methods and studies are data, checked where they are made."""

import equinox as eqx
import pytest

from sae_gap import Method, Setting, Study
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.linear import Linear
from sae_gap.encoders.topk import TopK
from sae_gap.learners.learner import HostLearner
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

SAE = SparseAutoencoder(TopK(3), num_steps=4)
FISTA, ISTA = (Lasso(tol=None, max_iterations=5, momentum=fast) for fast in (True, False))
METHODS = (Method("sae", "sae", SAE, TopK(3)), Method("oracle", "oracle", Oracle(), Lasso()))


def make(*sources, methods=METHODS, **options):
    return Study(
        "tiny",
        sources or (Setting(20, 3, 200), Setting(20, 3, 200, seed=1)),
        lambda _: methods,
        **options,
    )


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


class OnHost(HostLearner):
    num_steps: int = eqx.field(static=True, default=3, kw_only=True)

    def learn(self, data, *, num_latents, key):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("learner", "at"),
    [*((SAE, at) for at in ((1, 1), (5,), (-1,))), (Oracle(), (1,)), (OnHost(), (0,))],
)
def test_steps_that_are_not_there_are_refused(learner, at):
    with pytest.raises(ValueError, match=r"^method 'mine' .* at is .*\.$"):
        Method("mine", "sae", learner, Lasso(), at=at)
    Method("mine", "sae", learner, Lasso(), at=(learner.num_steps,))


@pytest.mark.parametrize(
    ("learner", "encoder"), [(SAE, lambda model, signals: signals), (lambda: None, TopK(3))]
)
def test_encoders_must_be_encoders_and_learners_learners(learner, encoder):
    with pytest.raises(ValueError, match="'mine' must have a Learner and an Encoder"):
        Method("mine", "sae", learner, encoder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "Paper"}, "protocol must be one of strict, paper"),
        *(({"lam": lam}, "lam must be a finite number") for lam in (-1.0, float("nan"))),
        ({"methods": METHODS[:1] * 2}, "methods must have different .* they are sae, sae"),
        ({"sources": (Setting(20, 3, 200),) * 2}, "sources must be different"),
        ({"sources": ()}, "sources must have at least one"),
    ],
)
def test_a_study_is_checked_at_its_boundary(options, words):
    sources, methods = (options.pop(name, None) for name in ("sources", "methods"))
    sources = (Setting(20, 3, 200),) if sources is None else sources
    with pytest.raises(ValueError, match=words):
        Study("tiny", sources, lambda _: methods or METHODS, **options)


def test_one_name_may_stand_for_methods_that_vary_something():
    def frozen(*encoders):
        return make(methods=[Method("frozen", "frozen", SAE, encoder) for encoder in encoders])

    make(methods=[Method("frozen", "frozen", SAE, Lasso(), {"tol": tol}) for tol in (1, 2)])
    assert len(frozen(FISTA, ISTA, Lasso(0.1), Lasso(0.2)).methods(Setting())) == 4
    with pytest.raises(ValueError, match="methods must have different names or coordinates"):
        frozen(Lasso(tol=1e-5), Lasso(tol=1e-6))

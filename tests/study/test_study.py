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
METHODS = (Method("sae", "sae", SAE, TopK(3)), Method("oracle", "oracle", Oracle(), Lasso()))


def make(*sources, methods=METHODS, **options):
    return Study(
        "tiny",
        sources or (Setting(20, 3, 200), Setting(20, 3, 200, seed=1)),
        lambda _: methods,
        **options,
    )


@pytest.mark.parametrize(
    ("method", "coordinates"),
    [
        (METHODS[0], {"dictionary": "topk", "inference": "own"}),
        (
            Method("a", "frozen", SAE, Lasso()),
            {"dictionary": "topk", "inference": "lasso", "start": "cold"},
        ),
        (
            Method("a", "refined", SAE, Lasso(start=TopK(3))),
            {"dictionary": "topk", "inference": "lasso", "start": "warm"},
        ),
        (
            Method("a", "frozen", SAE, Lasso(tol=None, max_iterations=20)),
            {"dictionary": "topk", "inference": "fista", "start": "cold", "iterations": 20},
        ),
        (
            Method("a", "frozen", SAE, Lasso(tol=None, max_iterations=5, momentum=False)),
            {"dictionary": "topk", "inference": "ista", "start": "cold", "iterations": 5},
        ),
        # Another k is no longer the encoder that was trained.
        (Method("a", "sae", SAE, TopK(4)), {"dictionary": "topk", "inference": "topk"}),
        (METHODS[1], {"dictionary": "oracle", "inference": "lasso", "start": "cold"}),
        (
            Method("a", "probe", LinearProbe(), Linear()),
            {"dictionary": "linear_probe", "inference": "linear"},
        ),
        (
            Method("a", "sae", SAE, Lasso(), {"start": "mine", "depth": 3}),
            {"dictionary": "topk", "inference": "lasso", "start": "mine", "depth": 3},
        ),
    ],
)
def test_what_a_method_varies_are_columns(method, coordinates):
    weight = {"lam": method.encoder.lam} if isinstance(method.encoder, Lasso) else {}
    assert method.coordinates == coordinates | weight


class OnHost(HostLearner):
    num_steps: int = eqx.field(static=True, default=3, kw_only=True)

    def learn(self, data, *, num_latents, key):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("learner", "at"),
    [
        (SAE, (1, 1)),
        (SAE, (5,)),
        (SAE, (-1,)),
        (Oracle(), (1,)),
        (OnHost(), (0,)),
        (OnHost(), (2, 3)),
    ],
)
def test_steps_that_are_not_there_are_refused(learner, at):
    with pytest.raises(ValueError, match=r"^method 'mine' .* at is .*\.$"):
        Method("mine", "sae", learner, Lasso(), at=at)
    Method("mine", "sae", learner, Lasso(), at=(learner.num_steps,))


@pytest.mark.parametrize(
    ("learner", "encoder"),
    [(SAE, lambda model, signals: signals), (lambda: None, TopK(3)), (None, None)],
)
def test_encoders_must_be_encoders_and_learners_learners(learner, encoder):
    with pytest.raises(
        ValueError, match=r"^method 'mine' must have a Learner and an Encoder; .*\.$"
    ):
        Method("mine", "sae", learner, encoder)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"protocol": "Paper"}, "protocol must be one of strict, paper, but it is 'Paper'."),
        ({"lam": -1.0}, "lam must be a finite number of at least 0, but it is -1.0."),
        ({"lam": float("nan")}, "lam must be a finite number of at least 0, but it is nan."),
        ({"lam": float("inf")}, "lam must be a finite number of at least 0, but it is inf."),
        (
            {"methods": METHODS[:1] * 2},
            "methods must have different names or coordinates, but they are sae, sae.",
        ),
    ],
)
def test_a_study_is_checked_at_its_boundary(options, fault):
    with pytest.raises(ValueError) as error:
        make(**options)
    assert str(error.value) == fault


def test_one_name_may_stand_for_methods_that_vary_something():
    methods = [
        Method("frozen", "frozen", SAE, Lasso(tol=None, max_iterations=count)) for count in (1, 2)
    ]
    assert len(make(methods=methods).methods(Setting())) == 2
    make(methods=[Method("frozen", "frozen", SAE, Lasso(lam)) for lam in (0.1, 0.2)])
    with pytest.raises(ValueError, match="methods must have different names or coordinates"):
        make(methods=[Method("frozen", "frozen", SAE, Lasso(tol=tol)) for tol in (1e-5, 1e-6)])
    make(
        methods=[
            Method("frozen", "frozen", SAE, Lasso(tol=tol), {"tol": tol}) for tol in (1e-5, 1e-6)
        ]
    )


def test_sources_must_differ_and_be_there():
    for sources, fault in (
        ((Setting(20, 3, 200),) * 2, "sources must be different"),
        ((), "sources must have at least one"),
    ):
        with pytest.raises(ValueError, match=fault):
            Study("tiny", sources, lambda _: METHODS)

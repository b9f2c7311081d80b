"""All that the catalogue names passes the checks that ship."""

import pytest

from sae_gap import catalogue, testing
from sae_gap.encoders.exchange import Exchange
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.on_support import OnSupport
from sae_gap.encoders.pursuit import OMP
from sae_gap.encoders.refined import Pruned
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.saes.foreign_encoders import AbsTopK
from tests.test_versions import encoder_of, learner_of

# Its codes are those of signals that it has seen: tests/encoders/test_lookup.py.
ENCODERS = [name for name in catalogue.encoders() if name != "lookup"]
# Other forms of these, and what has no name.
FORMS = [
    MatchingPursuit(3, nonneg=True),
    OMP(3, nonneg=True),
    Lasso(0.1, TopK(3), nonneg=False),
    BatchPursuit(3, l0=2.5),
    LISTA(3, factored=False),
    JumpReLU(threshold=0.5),
    AbsTopK(3),
    Exchange(3),
    Pruned(OnSupport(TopK(3), 0.0), 2.0),
]


@pytest.mark.parametrize("encoder", [*ENCODERS, *FORMS], ids=str)
def test_encoders(encoder):
    if isinstance(encoder, str):
        encoder = encoder_of(encoder)
    testing.check_encoder(encoder)


@pytest.mark.parametrize("name", catalogue.learners())
def test_learners(name):
    testing.check_learner(learner_of(name))


@pytest.mark.parametrize("metric", catalogue.metrics().values(), ids=catalogue.metrics())
def test_metrics(metric):
    testing.check_metric(metric)

"""All that the catalogue names passes the checks that ship."""

import pytest

from sae_gap import catalogue, testing
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.topk import TopK
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.learner import takes_steps

# Its codes are those of signals that it has seen: tests/encoders/test_lookup.py.
ENCODERS = [name for name in catalogue.encoders() if name != "lookup"]
BASE = DLFista(num_steps=3, num_iterations=20)
BASED = ("families", "pruned", "amortised", "surgery", "lista")
SMALL = {"visits": 3, "block": 4, "num_iterations": 20, "batch_size": 64}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name):
    testing.check_encoder(catalogue.make_encoder(name, sparsity=3, lam=0.1, base=TopK(3)))


@pytest.mark.parametrize("name", catalogue.learners())
def test_learners(name):
    kind = catalogue.learners()[name]
    options = SMALL | ({"num_steps": 2} if takes_steps(kind) else {})
    options |= {"base": BASE} if name in BASED else {}
    encoder = LISTA(2) if name == "lista" else TopK(3)
    testing.check_learner(catalogue.make(kind, encoder=encoder, encoders=(encoder,), **options))


@pytest.mark.parametrize("metric", catalogue.metrics().values(), ids=catalogue.metrics())
def test_metrics(metric):
    testing.check_metric(metric)

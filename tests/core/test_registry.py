"""The folder is the register: files that are dropped into it are found, shown and made, with
nothing else touched.
"""

import sys
import textwrap

import pytest

from sae_gap import catalogue
from sae_gap.core import registry
from sae_gap.figures import labels

ENCODER = """
import jax
from sae_gap.encoders.encoder import AmortisedEncoder

class Dropped(AmortisedEncoder):
    label = "Dropped-in"
    colour = "#123456"
    k: int = 10

    def __call__(self, model, signals):
        return jax.nn.relu(self.preactivations(model, signals))
"""
LEARNER = """
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.learner import Learner

class Nameless(Learner):
    lam: float = 0.1
"""
METRIC = """
from sae_gap.core.registry import Column
from sae_gap.metrics.metric import Metric

METRIC = Metric("mean_code", lambda inferred: {}, {"mean_code": Column("mean code", heading="mean")})
"""


@pytest.fixture
def drop(tmp_path, monkeypatch):
    """Puts a file into a package for the time of a test."""
    caches = [catalogue.encoders, catalogue.learners, catalogue.metrics]
    caches += [labels._dictionaries, labels._inferences, labels._metrics]
    names = []

    def put(package, name, text):
        folder = tmp_path / package
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        home = (
            sys.modules[package] if package in sys.modules else __import__(package, fromlist=["x"])
        )
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(folder)])
        names.append(f"{package}.{name}")
        for cache in caches:
            cache.cache_clear()

    yield put
    for name in names:
        sys.modules.pop(name, None)
    for cache in caches:
        cache.cache_clear()


def test_an_encoder_that_is_dropped_in_is_an_sae_and_infers_on_any_dictionary(drop):
    drop("sae_gap.encoders", "dropped", ENCODER)
    assert catalogue.saes()["dropped"].version == 1
    assert (
        labels.label("dropped") == "Dropped-in SAE"
        and labels.label("dropped", "inference") == "Dropped-in"
    )
    assert labels.colour("dropped") == labels.colour("dropped", "inference") == "#123456"
    encoder = catalogue.make_encoder("dropped", sparsity=4)
    assert (
        encoder.k == 4
        and catalogue.make_learner("sae_dropped", sparsity=4, input_dim=9).encoder == encoder
    )
    assert labels.rank("dropped")[0] == 0


def test_a_learner_that_is_dropped_in_has_a_spare_colour_if_it_has_none(drop):
    drop("sae_gap.learners", "nameless", LEARNER)
    learner = catalogue.make_learner("nameless", sparsity=4, input_dim=9, lam=0.3, num_steps=7)
    assert (
        learner.lam == 0.3
        and learner.coordinates == {"dictionary": "nameless"}
        and learner.family == "dictionary_learning"
    )
    assert labels.label("nameless") == "nameless" and labels.colour("nameless") in labels._SPARE


def test_a_metric_that_is_dropped_in_is_measured_everywhere_and_named(drop):
    drop("sae_gap.metrics", "mean_code", METRIC)
    assert catalogue.metrics()["mean_code"].everywhere
    assert labels.metric_label("mean_code_ood") == "mean code out of distribution"
    assert (
        labels.heading("mean_code_ood") == "mean OOD"
        and labels.heading("unknown_thing_id") == "unknown thing ID"
    )


def test_two_things_of_one_name_are_refused(drop):
    drop("sae_gap.encoders", "again", ENCODER.replace("Dropped", "TopK"))
    with pytest.raises(ValueError, match=r"has the name of .*topk; give one of them another"):
        catalogue.encoders()


def test_what_is_imported_or_abstract_is_not_registered():
    names = {
        kind.__name__ for kind in (*catalogue.encoders().values(), *catalogue.learners().values())
    }
    assert not names & {"Encoder", "AmortisedEncoder", "Learner", "Peer", "Among"}
    assert {"Lasso", "OnlineDictionary", "SpamsTrainDL"} < names


def test_everything_has_a_label_and_dictionaries_a_colour_of_their_own():
    for register in (catalogue.encoders(), catalogue.learners()):
        named = [kind for kind in register.values() if isinstance(kind.name, str)]
        assert all(
            "label" in vars(kind) for kind in named if kind.__name__ not in ("Linear", "Lookup")
        )
    learned = [name for name in labels._dictionaries() if name not in ("random", "samples")]
    assert len({labels.colour(name) for name in learned}) == len(learned)


@pytest.mark.parametrize("text", ["def f(:", "import nothing_of_this_name", "1 / 0"])
def test_a_file_that_cannot_be_imported_is_named(tmp_path, monkeypatch, text):
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bad.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        registry.BrokenFileError,
        match=r"^broken_package/bad\.py cannot be imported \(.+\); mend it or move it",
    ):
        list(registry.modules("broken_package"))
    sys.modules.pop("broken_package", None)

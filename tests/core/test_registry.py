"""The folder is the register: files that are dropped into it are found, shown and made, with
nothing else touched.
"""

import sys
from importlib import import_module

from pytest import fixture, mark, raises

from sae_gap import catalogue
from sae_gap.core import registry
from sae_gap.figures import labels

ENCODER = """
from sae_gap.encoders.encoder import AmortisedEncoder

class Dropped(AmortisedEncoder):
    label = "Dropped-in"
    colour = "#123456"
    k: int = 10

    def __call__(self, model, signals):
        return self.preactivations(model, signals)
"""


@fixture
def drop(tmp_path, monkeypatch):
    """Puts a file into a package for the time of a test."""
    caches = [catalogue.encoders, labels._dictionaries, labels._inferences]

    def put(package, text):
        (tmp_path / "dropped.py").write_text(text)
        home = import_module(package)
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, f"{package}.dropped", raising=False)
        for cache in caches:
            cache.cache_clear()

    yield put
    for name in [name for name in sys.modules if name.endswith(".dropped")]:
        del sys.modules[name]
    for cache in caches:
        cache.cache_clear()


def test_an_encoder_that_is_dropped_in_is_an_sae_and_infers_on_any_dictionary(drop):
    drop("sae_gap.encoders", ENCODER)
    assert catalogue.saes()["dropped"].version == 1
    assert labels.label("dropped") == f"{labels.label('dropped', 'inference')} SAE"
    assert (
        labels.colour("dropped") == labels.colour("dropped", "inference") == "#123456"
    )
    encoder = catalogue.make_encoder("dropped", sparsity=4)
    learner = catalogue.make_learner("sae_dropped", sparsity=4, input_dim=9)
    assert encoder.k == 4 and learner.encoder == encoder
    assert labels.rank("dropped")[0] == 0
    drop("sae_gap.encoders", ENCODER.replace("Dropped", "TopK"))
    with raises(ValueError, match=r"has the name of .*topk; give one of them another"):
        catalogue.encoders()


def test_all_but_what_is_imported_or_abstract_has_a_label_and_dictionaries_a_colour():
    kinds = {*catalogue.encoders().values(), *catalogue.learners().values()}
    names = {kind.__name__ for kind in kinds}
    assert not names & {"Encoder", "AmortisedEncoder", "Learner", "Peer", "Among"}
    assert {"Lasso", "OnlineDictionary", "SpamsTrainDL"} < names
    bare = {
        kind.__name__
        for kind in kinds
        if isinstance(kind.name, str) and "label" not in vars(kind)
    }
    assert bare <= {"Linear", "Lookup"}
    learned = labels._dictionaries().keys() - {"random", "samples"}
    assert len({labels.colour(name) for name in learned}) == len(learned)


@mark.parametrize("text", ["def f(:", "import nothing_of_this_name", "1 / 0"])
def test_a_file_that_cannot_be_imported_is_named(tmp_path, monkeypatch, text):
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "bad.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    fault = r"^broken_package/bad\.py cannot be imported \(.+\); mend it or move it"
    with raises(registry.BrokenFileError, match=fault):
        list(registry.modules("broken_package"))
    del sys.modules["broken_package"]

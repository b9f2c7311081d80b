"""Every public door refuses what makes no sense in one sentence, before it computes, compiles or writes anything."""

import dataclasses
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap import Method, Model, Models, Setting, Split, Store, Study, Task, learners
from sae_gap.encoders.batchtopk import BatchTopK
from sae_gap.encoders.encoder import Affine, Encoder
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.lista_matryoshka import ListaMatryoshka
from sae_gap.encoders.lookup import Lookup
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.matryoshka import MatryoshkaBatchTopK
from sae_gap.encoders.on_support import LeastSquares, OnSupport
from sae_gap.encoders.pursuit import OMP, NonNegativePursuit
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.baselines import PCA, Raw
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.learner import Learner
from sae_gap.learners.lista_training import Lista
from sae_gap.learners.online.families import Families
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.learners.online.pruned import Pruned
from sae_gap.learners.online.stream import _checked
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.softplus_adam import SoftplusAdam
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.learners.surgery import Surgery
from sae_gap.measure import of_model
from sae_gap.study.catalogue import RECIPES

NAN, INF = float("nan"), float("inf")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
D, Y = RNG.normal(size=(4, 6)).astype(np.float32), RNG.normal(size=(8, 4)).astype(np.float32)
Z = np.abs(RNG.normal(size=(8, 6))).astype(np.float32)
MODEL = Model(jnp.asarray(D), jnp.zeros(4), Affine(jnp.asarray(D), jnp.zeros(6)), ReLU())
ONLINE = OnlineDictionary(num_steps=2)
CELL = Setting(20, 3, 8)


def refused(door, match=None):
    with pytest.raises((ValueError, TypeError), match=match) as error:
        door()
    text = str(error.value)
    assert "\n" not in text and len(text) < 400 and text.endswith("."), text


# What each learner and encoder is made of, and what every option of a kind must not be.
MAKERS = {
    "online": OnlineDictionary,
    "sae": lambda **options: SparseAutoencoder(**{"encoder": TopK(3)} | options),
    "dl_fista": DLFista,
    "softplus": SoftplusAdam,
    "lista": lambda **options: Lista(**{"base": Oracle()} | options),
    "amortised": lambda **options: Amortised(**{"encoders": (TopK(3),), "base": Oracle()} | options),
    "families": lambda **options: Families(**{"base": Oracle()} | options),
    "pruned": lambda **options: Pruned(**{"base": Oracle()} | options),
    "probe": LinearProbe,
    "oracle": Oracle,
    "surgery": lambda **options: Surgery(**{"base": Oracle()} | options),
    "topk": TopK,
    "batchtopk": BatchTopK,
    "matryoshka": MatryoshkaBatchTopK,
    "lista_matryoshka": ListaMatryoshka,
    "jumprelu": JumpReLU,
    "LISTA": LISTA,
    "pursuit": MatchingPursuit,
    "omp": OMP,
    "nonneg_pursuit": NonNegativePursuit,
    "lasso": Lasso,
    "lookup": Lookup,
    "on_support": lambda **options: OnSupport(**{"encoder": TopK(3)} | options),
    "least_squares": lambda **options: LeastSquares(**{"encoder": TopK(3)} | options),
}
NOT_A_SIZE = (0, -1, 1.5, NAN, "x", True, 2**31)
NOT_POSITIVE = (0, -1, NAN, INF, "x", 1j, 10**400)
NOT_A_WEIGHT = (-1, NAN, INF, "x", None)
# Options that stand for themselves have their own values in OPTIONS.
KINDS = {
    NOT_A_SIZE: "num_steps batch_size renormalise_every num_iterations block patience num_rounds k depth",
    NOT_POSITIVE: "visits margin floor learning_rate ridge least_rate greatest_rate threshold bandwidth rate step tol",
    NOT_A_WEIGHT: "lam damping weight weight_decay penalty improvement max_iterations least_updates",
    (1, None, "yes"): "nonneg replace centred incoherent leading factored unit_atoms momentum",
    (3, "topk", Lasso): "encoder",
}
OPTIONS = {
    "rates": ((0.5, 0.1, 0), (NAN, 0.1, 0.1), (-1, 0.1, 0.1), (0.5, 0.1), "abc", 0.1),
    "weak": (-0.1, 1, NAN, "x"),
    "share": (0, -0.1, 1.1, NAN, "x"),
    "floors": ((0, 0), (0.1, 0), (NAN, 0.1), (0.1,), 3),
    "settle": (0, 1, -1, NAN, "x"),
    "num_slots": (0, -4, 6, 1.5),
    "alphas": ((), (0,), (-1.0,), (NAN,), 3),
    "prefixes": ((), (0.5,), (0.7, 0.5, 1), (NAN, 1), 3),
    "split": ("ood", None, 3),
    "columns": ("unit", None, 3),
    "encoders": ((), 3, (3,), (Lasso(),)),
    "base": (3, "oracle"),
    "start": (3, "topk"),
}
# Of what is else positive, where zero makes sense.
ZERO = {("dl_fista", "tol"), ("online", "tol"), ("LISTA", "threshold")}


def takes_no_steps(made):
    return isinstance(made, Learner) and (made.on_host or type(made).step is Learner.step)


def option_cases():
    named = {name: values for values, names in KINDS.items() for name in names.split()} | OPTIONS
    for maker, make in MAKERS.items():
        for field in dataclasses.fields(make()):
            for value in named.get(field.name, ()):
                if value == 0 and ((maker, field.name) in ZERO or (field.name == "num_steps" and takes_no_steps(make()))):
                    continue
                yield pytest.param(maker, field.name, value, id=f"{maker}-{field.name}-{str(value)[:20]}")


@pytest.mark.parametrize(("maker", "option", "value"), list(option_cases()))
def test_no_learner_or_encoder_takes_an_option_that_makes_no_sense(maker, option, value):
    refused(lambda: MAKERS[maker](**{option: value}), match=option)


def test_every_learner_is_asked_for_its_options():
    """Add it to MAKERS, and options that are new to KINDS or OPTIONS."""
    for module in pkgutil.iter_modules(learners.__path__):
        importlib.import_module(f"{learners.__name__}.{module.name}")
    made, kinds = {type(make()) for make in MAKERS.values()}, [Learner]
    for kind in kinds:
        kinds += kind.__subclasses__()
    common = {field.name for field in dataclasses.fields(Learner)}
    own = {
        kind for kind in kinds if kind.__module__.startswith("sae_gap.") and {f.name for f in dataclasses.fields(kind)} > common
    }
    assert len(own) > 9
    assert own - made == set()


def test_every_sae_is_asked_for_its_options():
    encoders = [recipe.tuned(3) for recipe in RECIPES.values()]
    made = {type(make()) for make in MAKERS.values()}
    assert {type(encoder) for encoder in encoders if dataclasses.fields(encoder)} <= made


def test_every_option_is_asked_for_its_kind():
    named = {name for names in KINDS.values() for name in names.split()} | OPTIONS.keys()
    unknown = {field.name for make in MAKERS.values() for field in dataclasses.fields(make())} - named
    assert not unknown, "add these options to KINDS or OPTIONS"


@pytest.mark.parametrize("kind", [Oracle, PCA, Raw, LinearProbe, lambda **options: Surgery(base=Oracle(), **options)])
@pytest.mark.parametrize("num_steps", [3, True, "x"])
def test_learners_that_take_no_steps_are_given_none(kind, num_steps):
    refused(lambda: kind(num_steps=num_steps), match="takes? no steps|num_steps must be")


def test_numpy_numbers_make_the_setting_that_python_ones_do():
    numpys = Setting(np.int64(20), np.int32(3), np.uint16(8), np.int64(0), noise_db=np.float64(10))
    plain = Setting(20, 3, 8, 0, noise_db=10.0)
    assert numpys == plain and numpys.asdict() == plain.asdict() and type(numpys.num_latents) is int


# Codes and dictionaries that no metric may take.
WRONG = {
    "complex": lambda a: a + 1j,
    "strings": lambda a: np.full(a.shape, "x"),
    "objects": lambda a: a.astype(object),
    "dates": lambda a: np.zeros(a.shape, "M8[s]"),
    "nan": lambda a: np.where(a == a[1, 1], np.nan, a),
    "infinity": lambda a: np.where(a == a[1, 1], np.inf, a),
    "vector": lambda a: a[0],
    "tensor": lambda a: a[None],
    "empty": lambda a: a[:0],
    "ragged": lambda a: [[1.0], [1.0, 2.0]],
    "none": lambda a: None,
    "mapping": lambda a: {},
    "masked": lambda a: np.ma.masked_array(a, mask=np.arange(a.size).reshape(a.shape) == 1),
    "masked rows": lambda a: [*np.ma.masked_array(a, mask=np.arange(a.size).reshape(a.shape) == 1)],
    "masked records": lambda a: np.ma.masked_array(np.zeros(a.shape, [("x", "f4")]), mask=True),
}


@pytest.mark.parametrize("kind", WRONG)
def test_no_metric_takes_what_is_no_finite_real_matrix(kind):
    wrong = WRONG[kind]
    optimum = sae_gap.Solution(Z, *(jnp.ones(8) for _ in range(2)), jnp.ones(8, int), jnp.ones(8, bool))
    match = sae_gap.match_atoms(D, D)
    from sae_gap.metrics import classification, dictionary, gap, support

    labels = np.arange(8) > 3
    for door in (
        lambda: sae_gap.match_atoms(wrong(D), D),
        lambda: sae_gap.match_atoms(D, wrong(D)),
        lambda: match.align(wrong(Z)),
        lambda: sae_gap.mcc(wrong(Z), Z),
        lambda: sae_gap.mcc(Z, wrong(Z)),
        lambda: sae_gap.mcc_paper(Z, wrong(Z), "id"),
        lambda: dictionary.dictionary_recovery(match, wrong(D), D),
        lambda: support.support_recovery(match, Z, wrong(Z)),
        lambda: classification.fit_logistic(wrong(Z), labels),
        lambda: classification.roc_auc(wrong(Z), labels),
        lambda: gap.mse(Y, wrong(D), Z),
        lambda: gap.mse(Y, D, wrong(Z)),
        lambda: gap.l0(wrong(Z)),
        lambda: gap.objective_gap(Y, wrong(D), Z, optimum, 0.1),
        lambda: sae_gap.sparse_code(wrong(Y), D, 0.1),
        lambda: sae_gap.sparse_code(Y, wrong(D), 0.1),
        lambda: sae_gap.sparse_code_path(wrong(Y), D, [0.1]),
        lambda: sae_gap.amortisation_gap(MODEL, wrong(Y), 0.1),
        lambda: sae_gap.amortisation_gap(dataclasses.replace(MODEL, dictionary=wrong(D)), Y, 0.1),
        lambda: sae_gap.amortisation_gap(MODEL, Y, 0.1, encode=lambda model, signals: wrong(Z)),
        lambda: of_model("mine", dataclasses.replace(MODEL, dictionary=wrong(D))),
    ):
        refused(door)


def test_no_door_uncovers_what_a_mask_covers(tmp_path):
    from sae_gap.core.codes import Codes
    from sae_gap.measure import control, fvu, lasso_on_support, refit, support_overlap
    from sae_gap.metrics import classification, detection
    from sae_gap.saes.loading_report import load_report
    from sae_gap.solvers.greedy import matching_pursuit, orthogonal_matching_pursuit

    def masked(a):
        return np.ma.masked_array(a, mask=np.arange(a.size).reshape(a.shape) == 1)

    model = dataclasses.replace(MODEL, encoder=Affine(jnp.asarray(0.1 * D), jnp.zeros(6)))
    sae_gap.save_sae(model, tmp_path / "sae")
    sae = sae_gap.load_sae(tmp_path / "sae")
    for door in (
        lambda: classification.roc_auc(Z, masked(np.arange(8) > 3)),
        lambda: fvu(masked(Y), Y),
        lambda: fvu(Y, masked(Y)),
        lambda: support_overlap(masked(Z), Z),
        lambda: support_overlap(Z, masked(Z)),
        lambda: refit(masked(Y), D, Z > 0),
        lambda: refit(Y, D, masked(Z > 0)),
        lambda: lasso_on_support(masked(Y), D, Z > 0, 0.1),
        lambda: control("random", masked(Y), 6, seed=0),
        lambda: detection.cuts(masked(Z)),
        lambda: Codes.from_dense(masked(Z)),
        lambda: matching_pursuit(masked(Y), D, 2),
        lambda: orthogonal_matching_pursuit(Y, masked(D), 2),
        lambda: sae.encode(masked(Y)),
        lambda: load_report(sae, masked(Y)),
        lambda: sae_gap.save_sae(dataclasses.replace(model, bias=masked(np.zeros(4, np.float32))), tmp_path / "other"),
        lambda: sae_gap.save_activations(tmp_path / "rows.npz", Y, extra=masked(Y)),
    ):
        refused(door, match="has masked entries")
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


def task(num_samples=4, input_dim=4, num_latents=6):
    split = Split(jnp.asarray(RNG.normal(size=(num_samples, input_dim)), jnp.float32))
    return Task(split, split, split, width=num_latents)


def gap(model=MODEL, **options):
    return lambda: sae_gap.amortisation_gap(model, Y, **{"lam": 0.1} | options)


def replaced(**parts):
    return dataclasses.replace(MODEL, **parts)


def study(**parts):
    given = {"name": "one", "sources": [CELL], "methods": lambda source: [Method("m", "f", ONLINE, Lasso())]} | parts
    return Study(**given)


def stream(source=Y, **options):
    return lambda: sae_gap.fit_stream(**{"learner": ONLINE, "source": source, "num_latents": 6, "key": KEY} | options)


DOORS = {
    "weight in PyTorch's layout": (gap(replaced(encoder=Affine(jnp.asarray(D.T), jnp.zeros(4)))), "transpose it"),
    "weight of another width": (gap(replaced(encoder=Affine(jnp.zeros((4, 9)), jnp.zeros(9)))), "encoder's weight must have"),
    "offset of wrong length": (lambda: Affine(jnp.asarray(D), jnp.zeros(4)), "an affine map must have"),
    "offset that is a number": (lambda: Affine(jnp.asarray(D), 1.0), "an affine map must have"),
    "bias of wrong length": (gap(replaced(bias=jnp.zeros(6))), "bias must be 4 finite numbers"),
    "bias that broadcasts": (gap(replaced(bias=jnp.zeros((1, 4)))), "bias must be 4 finite numbers"),
    "encoder without weights": (gap(replaced(encoder=None)), "ReLU reads Affine"),
    "a JumpReLU without thresholds": (gap(replaced(encode=JumpReLU())), "JumpReLU reads JumpReLUParameters"),
    "no model": (gap("model"), "model must be of class Model"),
    "no function": (gap(encode=3), "encode must be a function"),
    "codes of another width": (gap(encode=lambda model, signals: Z[:, :5]), "encode must give codes of shape"),
    "codes that broadcast": (gap(encode=lambda model, signals: Z[:, :1]), "encode must give codes of shape"),
    "codes too large": (gap(encode=lambda model, signals: 1e30 * Z), "whose objective float32 cannot hold"),
    "codes too large for the type": (gap(encode=lambda model, signals: 1e200 * Z.astype(float)), "must be finite in float32"),
    "lam that is no number": (gap(lam="x"), "lam must be real numbers"),
    "lam too large": (gap(lam=10**400), "lam must be real numbers"),
    "signed that is no flag": (gap(signed="no"), "signed must be True or False"),
    "a fraction beyond λ_max": (gap(lam=None, lam_fraction=1.5), "lam_fraction must be a finite number above 0 and below 1"),
    "atoms that vanish": (gap(replaced(dictionary=jnp.asarray(1e-42 * D))), "an atom whose largest entry"),
    "atoms that vanish in a solver": (lambda: sae_gap.sparse_code(Y, 1e-42 * D, 0.1), "an atom whose largest entry"),
    "atoms on a device that vanish": (lambda: sae_gap.sparse_code(Y, jnp.asarray(1e-42 * D), 0.1), "an atom whose largest"),
    "atoms that vanish in float32": (lambda: sae_gap.sparse_code(Y, 1e-200 * D.astype(float), 0.1), "an atom whose largest"),
    "signals that vanish": (lambda: sae_gap.sparse_code(jnp.asarray(1e-42 * Y), D, 0.1), "signals reach a magnitude"),
    "a measured dictionary that vanishes": (lambda: of_model("mine", Model(jnp.asarray(1e-42 * D), jnp.zeros(4))), "an atom"),
    "complex weights": (lambda: sae_gap.sparse_code_path(Y, D, [0.1j]), "lams must be"),
    "texts for weights": (lambda: sae_gap.sparse_code_path(Y, D, ["a"]), "lams must be"),
    "an unknown option": (lambda: sae_gap.sparse_code_path(Y, D, [0.1], tolerance=1), "'tolerance' is no option"),
    "sparse codes of a path": (lambda: sae_gap.match_l0(Y, D, 2.0, sparse=True), "leave sparse out"),
    "a target that is no number": (lambda: sae_gap.match_l0(Y, D, "two"), "target must be"),
    "an accuracy that is none": (lambda: sae_gap.match_l0(Y, D, 2.0, accuracy=NAN), "accuracy must be"),
    "steps that are none": (lambda: sae_gap.match_l0(Y, D, 2.0, max_steps=1.5), "max_steps must be"),
    "a split that is none": (lambda: sae_gap.mcc_paper(Z, Z, "val"), "split must be one of id, ood"),
    "a seed that is none": (lambda: sae_gap.mcc_paper(Z, Z, "id", seed=-1), "seed must be"),
    "nothing to draw": (lambda: sae_gap.draw(3), "setting must be of class Setting"),
    "no learner": (lambda: sae_gap.fit(3, [task()], [KEY]), "learner must be of class Learner"),
    "no tasks": (lambda: sae_gap.fit(ONLINE, [], []), "tasks must have at least one entry"),
    "a task that is none": (lambda: sae_gap.fit(ONLINE, [3], [KEY]), r"tasks\[0\] must be of class Task"),
    "tasks of two lengths": (lambda: sae_gap.fit(ONLINE, [task(), task(5)], [KEY, KEY]), "tasks must have one shape"),
    "tasks of two widths": (
        lambda: sae_gap.fit(ONLINE, [task(), task(num_latents=7)], [KEY, KEY]),
        "tasks must have one shape",
    ),
    "a NaN to learn from": (
        lambda: sae_gap.fit(ONLINE, [dataclasses.replace(task(), train=Split(jnp.full((4, 4), NAN)))], [KEY]),
        "have a NaN or an infinity",
    ),
    "an infinity to learn from": (
        lambda: sae_gap.fit(ONLINE, [dataclasses.replace(task(), train=Split(jnp.full((4, 4), INF)))], [KEY]),
        "have a NaN or an infinity",
    ),
    "a list to learn from": (
        lambda: sae_gap.fit(ONLINE, [dataclasses.replace(task(), train=Split([[1.0]]))], [KEY]),
        "must be an array",
    ),
    "nothing to learn from": (
        lambda: sae_gap.fit(ONLINE, [dataclasses.replace(task(), train=Split(jnp.zeros((0, 4))))], [KEY]),
        r"must be a matrix \(samples, input_dim\) of float32, but they are an array of float32 of shape \(0, 4\)",
    ),
    "one signal for many": (
        lambda: sae_gap.fit(ONLINE, [dataclasses.replace(task(), train=Split(jnp.zeros(4)))], [KEY]),
        "must be a matrix",
    ),
    "integers to learn from": (
        lambda: sae_gap.fit(ONLINE, [dataclasses.replace(task(), train=Split(jnp.zeros((4, 4), jnp.int32)))], [KEY]),
        "must be a matrix",
    ),
    "a base that nothing comes of": (
        lambda: sae_gap.fit(OnlineDictionary(base=ONLINE), [task()], [KEY]),
        "goes on from no other learner's model",
    ),
    "too many keys": (lambda: sae_gap.fit(ONLINE, [task()], [KEY, KEY]), "keys must be 1"),
    "a key that is a number": (lambda: sae_gap.fit(ONLINE, [task()], [0]), "a key must be one random key"),
    "keys for a key": (lambda: sae_gap.fit(ONLINE, [task()], [jax.random.split(KEY)]), "a key must be one random key"),
    "keys of the older form for a key": (
        lambda: sae_gap.fit(ONLINE, [task()], [np.zeros((2, 2), np.uint32)]),
        "a key must be one random key",
    ),
    "a step before the first": (lambda: sae_gap.fit(ONLINE, [task()], [KEY], at=[-1]), "at must be an integer"),
    "bases that are none": (lambda: sae_gap.fit(ONLINE, [task()], [KEY], bases=[3]), r"bases\[0\] must be of class Model"),
    "too many bases": (lambda: sae_gap.fit(ONLINE, [task()], [KEY], bases=[MODEL, MODEL]), "bases must be 1"),
    "a base that is none": (
        lambda: sae_gap.fit(
            Families(base=Oracle()), [task()], [KEY], bases=[dataclasses.replace(MODEL, dictionary=jnp.full((4, 4), NAN))]
        ),
        "the model of a base has a NaN",
    ),
    "a base for none": (lambda: sae_gap.fit(ONLINE, [task()], [KEY], bases=[MODEL]), "goes on from no base"),
    "nobody to keep": (lambda: sae_gap.fit(ONLINE, [task()], [KEY], keep=5), "keep must be a function"),
    "nobody who watches": (lambda: sae_gap.fit(ONLINE, [task()], [KEY], watch=5), "watch must be a function"),
    "beside what": (lambda: sae_gap.fit(ONLINE, [task()], [KEY], side_by_side="x"), "side_by_side must be True or False"),
    "no checkpoint": (lambda: sae_gap.fit(ONLINE, [task()], [KEY], checkpoints=[]), "checkpoints must have at least one"),
    "a name for a checkpoint": (
        lambda: sae_gap.fit(ONLINE, [task()], [KEY], checkpoints=["a"]),
        r"checkpoints\[0\] must be of class Checkpoint",
    ),
    "models of no learner": (lambda: Models().fit("x", [Setting()], [task()]), "learner must be of class Learner"),
    "models of no source": (lambda: Models().fit(ONLINE, ["x"], [task()]), r"sources\[0\] must be of class Setting"),
    "models of no task": (lambda: Models().fit(ONLINE, [Setting()], ["x"]), r"tasks\[0\] must be of class Task"),
    "models of too many tasks": (lambda: Models().fit(ONLINE, [Setting()], [task(), task()]), "tasks must be 1"),
    "models at no step": (lambda: Models().fit(ONLINE, [Setting()], [task()], ["a"]), "at must be an integer"),
    "a folder of nothing": (lambda: Models("here").folder(5, Setting()), "learner must be of class Learner"),
    "what is missing of nothing": (lambda: Models("here").missing(ONLINE, 5), "source must be of class Setting"),
    "an oracle that hardly knows": (lambda: Oracle(leading="false"), "leading must be True or False"),
    "a study's hurry": (lambda: study(timed=1), "timed must be True or False"),
    "a stream's key": (stream(key=0), "key must be one random key"),
    "a stream's learner": (stream(learner=DLFista()), "learner must be of class OnlineDictionary"),
    "a stream's source": (stream(3), "source must be an array"),
    "a stream's file": (stream(checkpoint="here"), "checkpoint must be of class Checkpoint"),
    "a stream's mesh": (stream(mesh=3), "mesh must be of class Mesh"),
    "a stream's length": (stream(num_samples=1.5), "num_samples must be"),
    "a stream without columns": (stream(Y[:, :0]), "the source gave float32 of shape"),
    "a stream of nothing": (stream(lambda start, count: None, num_samples=8), "what the source gives must be rows"),
    "a study's name": (lambda: study(name=3), "name must be of class str"),
    "a study's source": (lambda: study(sources=[3]), r"sources\[0\] must be of class Setting or Recording"),
    "a study's methods": (lambda: study(methods=3), "methods must be a function"),
    "a study's method": (lambda: study(methods=lambda source: [3]), r"methods\(source\)\[0\] must be of class Method"),
    "a study's metric": (lambda: study(metrics=[3]), "a metric must be a function"),
    "a study's weight": (lambda: study(lam=NAN), "lam must be a finite number of at least 0"),
    "a method's columns": (lambda: Method("m", "f", ONLINE, Lasso(), row=3), "row must be of class Mapping"),
    "a method's steps": (lambda: Method("m", "f", ONLINE, Lasso(), at=1), "at must be a tuple of steps"),
    "no study": (lambda: sae_gap.run(3, None), "study must be of class Study"),
    "no store": (lambda: sae_gap.run(study(), "here"), "store must be of class Store"),
    "no models": (lambda: sae_gap.run(study(), None, models="here"), "models must be of class Models"),
    "a folder that is none": (lambda: Store(3), "directory must be a path"),
    "models nowhere": (lambda: Models(3), "directory must be a path"),
    "models never saved": (lambda: Models("here", every=NAN), "every must be"),
    "a file that is none": (lambda: sae_gap.load(3), "path must be a path"),
    "activations nowhere": (lambda: sae_gap.open_activations(None), "path must be a path"),
    "an SAE nowhere": (lambda: sae_gap.load_sae(3), "path must be a path"),
    "a folder for an SAE": (lambda: sae_gap.save_sae(MODEL, 3), "folder must be a path"),
    "a dictionary in lists": (gap(replaced(dictionary=D.tolist())), "the dictionary must be of class"),
    "a width that is none": (lambda: sae_gap.fit(ONLINE, [task(num_latents=0)], [KEY]), "width must be"),
    "rows beyond float32": (lambda: sae_gap.save_activations("never.npz", 1e200 * Y.astype(float)), "finite in float32"),
    "an array without a name": (lambda: sae_gap.open_activations("here", key=3), "key must be of class str"),
}


def test_a_stream_keeps_its_width():
    take = _checked(lambda start, count: np.ones((count, 4 if start == 0 else 3), np.float32))
    assert take(0, 8).shape == (8, 4)
    refused(lambda: take(8, 8), match="rows of 3 and of 4 numbers")


# Equinox warns of an array in a static field before it can be refused.
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize("kind", [np.array, jnp.asarray])
def test_static_options_that_cannot_be_hashed_are_refused(kind):
    for name, call in (
        ("share", lambda: Pruned(share=kind(0.5), base=ONLINE)),
        ("visits", lambda: OnlineDictionary(visits=kind(50))),
        ("k", lambda: TopK(k=kind(3))),
        ("num_slots", lambda: OnlineDictionary(num_slots=kind(8))),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must be a plain Python value[^\n]*\.$"):
            call()


@pytest.mark.parametrize("case", DOORS)
def test_every_door_refuses_in_one_sentence(case):
    door, match = DOORS[case]
    refused(door, match)


@pytest.mark.parametrize("shard", [(2, 2), (0, 0), (-1, 2), (0, 1, 2), ("a", "b"), (0.0, 1.0), (True, 2), 3])
def test_no_run_and_no_store_takes_a_shard_that_is_none(tmp_path, shard):
    refused(lambda: Store(tmp_path / "never", shard), match="shard must be")
    assert not (tmp_path / "never").exists()
    refused(lambda: sae_gap.run(study(), Store(tmp_path / "rows"), shard), match="shard must be")


@pytest.mark.parametrize(
    "rows", [3, "row", {"key": "a"}, [3], [{"key": "a", "job": "b", "x": 1j}], [{"key": "a", "job": "b", "x": 10**4_400}]]
)
def test_a_store_takes_only_rows(tmp_path, rows):
    store = Store(tmp_path)
    refused(lambda: store.append(rows))
    assert store.rows() == []


@pytest.mark.parametrize(
    ("rows", "documents"),
    [*((WRONG[kind](Y), None) for kind in WRONG), *((Y, wrong) for wrong in (3, "x", np.zeros(7, int), np.zeros(8), {}))],
)
def test_nothing_is_written_that_cannot_be_read_again(tmp_path, rows, documents):
    refused(lambda: sae_gap.save_activations(tmp_path / "new" / "rows.npz", rows, documents))
    assert not (tmp_path / "new").exists()


def test_an_encoder_of_ones_own_is_asked_for_no_option_of_ours():
    class Mine(Encoder):
        k: int = -1

    assert Mine().k == -1

"""Each encoder runs once on a split of a model, and only what compiled is timed again."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from equinox import field
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark
from scipy.sparse import issparse

from sae_gap.core import Coded, Model
from sae_gap.encoders import Encoder, Lasso, TopK
from sae_gap.runtime import devices
from sae_gap.study import Inference, inference


@fixture
def model(task):
    parameters = TopK(3).parameters(task.dictionary, jax.random.key(0))
    return Model(task.dictionary, jnp.zeros(12), parameters, encode=TopK(3))


class Calls(list):
    """A list that tells no encoder from another."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


class Counting(Encoder):
    """Codes by products, and a list of the calls; each takes its seconds on a clock."""

    gain: float = 1.0
    start: Encoder | None = None
    calls: Calls = field(static=True, default_factory=Calls)

    @property
    def origin(self):
        return self.start

    def __call__(self, model, signals):
        return self.gain * (signals @ model.dictionary)

    def infer(self, model, signals, begun=None):
        self.calls.append((float(signals[0, 0]), begun))
        NOW[0] += self.gain
        return Coded(self(model, signals))


NOW = [0.0]


class Asking(Encoder):
    """Ones where products are asked for at full precision, else zeros."""

    def __call__(self, model, signals):
        exact = jax.config.jax_default_matmul_precision == "highest"
        return jnp.full((len(signals), model.dictionary.shape[1]), float(exact))


def test_codes_are_those_of_full_precision_whatever_training_had(task, model):
    with jax.default_matmul_precision("bfloat16"):
        assert np.all(Inference(task, model).infer(Asking(), "id").codes == 1)


def test_one_run_for_an_encoder_and_a_split(task, model):
    found = Inference(task, model, timed=False)
    encoder = Counting()
    for _ in range(2):
        for split in ("id", "ood"):
            expected = getattr(task, split).signals @ task.dictionary
            assert_allclose(found.infer(encoder, split).codes, expected, rtol=1e-5)
    assert found.infer(Counting(), "id") is found.infer(encoder, "id")
    signals = [float(getattr(task, split).signals[0, 0]) for split in ("id", "ood")]
    assert [first for first, _ in encoder.calls] == signals
    Inference(task, model, timed=False).infer(encoder, "id")
    found.infer(Counting(2.0, calls=encoder.calls), "id")
    assert len(encoder.calls) == 4


def test_the_seconds_are_those_of_the_last_run_and_of_all_that_it_starts_from(
    task, model, monkeypatch
):
    monkeypatch.setattr(inference, "perf_counter", lambda: NOW[0])
    # Each run on the ID split is repeated once if it compiled.
    monkeypatch.setattr(devices, "compilations", itertools.count().__next__)
    first = Counting(1.0)
    second = Counting(2.0, first)
    third = Counting(4.0, second)
    found = Inference(task, model)
    assert found.seconds(third) == 7.0 and found.seconds(second) == 3.0
    codes = found.infer(second, "ood").codes
    found.infer(third, "ood")
    assert len(third.calls) == len(second.calls) == len(first.calls) == 3
    # A start is inferred once and handed on.
    assert (
        third.calls[-1][1] is codes
        and second.calls[-1][1] is found.infer(first, "ood").codes
    )
    rows = len(task.id.signals)
    timed = found.time(third, 2 * rows, 3, clock=lambda: NOW[0])
    assert timed == approx(7.0 / rows * 1_000)


def test_a_lasso_is_solved_once_for_all_its_names_and_compiles_nothing_anew(
    task, model
):
    found = Inference(task, model)
    solution = found.infer(Lasso(0.1), "ood")
    assert found.infer(Lasso(0.1, start=None), "ood") is solution
    warm = found.infer(Lasso(0.1, start=TopK(3)), "ood")
    assert_allclose(warm.codes, solution.codes, atol=1e-3)
    assert hasattr(warm, "gap") and not hasattr(found.infer(TopK(3), "ood"), "gap")
    before = devices.compilations()
    # Nor does what trained a model.
    for encode in (None, TopK(4)):
        other = Model(model.dictionary, model.bias, None, encode=encode)
        Inference(task, other).infer(Lasso(0.2), "ood")
    assert devices.compilations() == before


@mark.parametrize("beyond", [0, 1])
def test_codes_of_many_samples_are_held_by_their_non_zeros(
    task, model, monkeypatch, beyond
):
    whole = Inference(task, model).infer(Lasso(0.1), "ood")
    monkeypatch.setattr(
        inference, "DENSE_NUMBERS", len(task.ood.signals) * task.width - beyond
    )
    monkeypatch.setattr(inference, "_DENSE_CODES", 30 * task.width)
    coded = Inference(task, model).infer(Lasso(0.1), "ood")
    assert issparse(coded.codes) == bool(beyond)
    codes = coded.codes.toarray() if beyond else coded.codes
    assert_allclose(codes, whole.codes, atol=1e-5)
    assert_allclose(coded.objective, whole.objective, rtol=1e-5)

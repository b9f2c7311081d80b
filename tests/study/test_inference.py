"""Each encoder runs once on a split of a model, and only what compiled is timed again."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from sae_gap.core.types import Coded, Model
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.topk import TopK
from sae_gap.runtime import devices
from sae_gap.study import inference
from sae_gap.study.inference import Inference


@pytest.fixture
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
    """Codes on the first atom, and a list of the calls."""

    gain: float = 1.0
    start: Encoder | None = None
    calls: Calls = eqx.field(static=True, default_factory=Calls)
    compiles: bool = False

    @property
    def origin(self):
        return self.start

    def __call__(self, model, signals):
        return self.gain * (signals @ model.dictionary)

    def infer(self, model, signals, begun=None):
        self.calls.append((float(signals[0, 0]), begun))
        if self.compiles:
            # A function that is new is compiled anew.
            jax.jit(lambda signals: signals + len(self.calls))(signals).block_until_ready()
        return Coded(self(model, signals))


class Asking(Encoder):
    """Ones where products are asked for at full precision, else zeros."""

    def __call__(self, model, signals):
        exact = jax.config.jax_default_matmul_precision == "highest"
        return jnp.full((len(signals), model.dictionary.shape[1]), float(exact))


def test_codes_are_those_of_full_precision_whatever_training_had(task, model):
    with jax.default_matmul_precision("bfloat16"):
        assert np.all(Inference(task, model).infer(Asking(), "id").codes == 1)


def test_one_run_for_an_encoder_and_a_split(task, model):
    found, encoder = Inference(task, model), Counting()
    for _ in range(3):
        for split in ("id", "ood"):
            expected = getattr(task, split).signals @ task.dictionary
            np.testing.assert_allclose(found.infer(encoder, split).codes, expected, rtol=1e-5)
    assert found.seconds(encoder) > 0
    assert found.infer(Counting(), "id") is found.infer(encoder, "id")
    # One compiling first run on ID at most, and one on OOD.
    assert len(encoder.calls) <= 3
    before = len(encoder.calls)
    found.infer(Counting(2.0, calls=encoder.calls), "id")
    assert len(encoder.calls) == before + 1
    Inference(task, model).infer(encoder, "id")
    assert len(encoder.calls) == before + 2


def test_a_run_is_repeated_for_its_time_only_where_it_compiled(task, model):
    Inference(task, model).infer(Counting(), "id")
    warm = Counting()
    Inference(task, model).infer(warm, "id")
    assert len(warm.calls) == 1
    cold = Counting(compiles=True)
    found = Inference(task, model)
    found.infer(cold, "ood")
    assert len(cold.calls) == 1
    found.infer(cold, "id")
    assert len(cold.calls) == 3


def test_the_seconds_are_those_of_the_run_that_compiled_nothing(task, model, monkeypatch):
    now, steps = [0.0], iter([7.0, 3.0])

    class Slow(Counting):
        def infer(self, model, signals, begun=None):
            now[0] += next(steps)
            return super().infer(model, signals, begun)

    compiled = iter([0, 1, 1, 1])
    monkeypatch.setattr(inference.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(devices, "compilations", lambda: next(compiled))
    assert Inference(task, model).seconds(Slow()) == 3.0
    steps, rows = iter([7.0, 3.0]), len(task.id.signals)
    found = Inference(task, model).time(Slow(), 2 * rows, clock=lambda: now[0])
    assert found == 3.0 / rows * 1_000


def test_a_start_is_inferred_once_and_handed_on(task, model):
    start = Counting()
    warm = [Counting(gain, start, compiles=False) for gain in (2.0, 3.0)]
    found = Inference(task, model)
    origin = found.infer(start, "ood")
    for encoder in warm:
        found.infer(encoder, "ood")
        ((_, begun),) = encoder.calls
        assert begun is origin.codes
    assert len(start.calls) == 1


def test_the_time_of_a_start_counts(task, model):
    found, start = Inference(task, model), Counting()
    warm = Counting(2.0, start)
    own = found.seconds(start)
    assert found.seconds(warm) == own + found._run(warm, "id")[1] > own


def test_a_lasso_is_solved_once_for_all_its_names(task, model, monkeypatch):
    calls = []
    infer = Lasso.infer

    def counting(self, model, signals, begun=None):
        calls.append(self)
        return infer(self, model, signals, begun)

    found = Inference(task, model)
    found.infer(Lasso(0.1), "ood")
    monkeypatch.setattr(Lasso, "infer", counting)
    solution = found.infer(Lasso(0.1, start=None), "ood")
    assert calls == []
    assert solution.certified is not None
    assert found.infer(TopK(3), "ood").certified is None
    found.infer(Lasso(0.2), "ood")
    found.infer(Lasso(0.1, start=TopK(3)), "ood")
    assert [encoder.lam for encoder in calls] == [0.2, 0.1]
    warm = found.infer(Lasso(0.1, start=TopK(3)), "ood")
    np.testing.assert_allclose(warm.codes, solution.codes, atol=1e-3)


def test_what_trained_a_model_compiles_nothing_anew(task, model):
    encoder = Lasso(0.1)
    Inference(task, model).infer(encoder, "id")
    before = devices.compilations()
    for encode in (None, TopK(3), TopK(4)):
        for lam in (0.2, 0.3):
            other = Model(model.dictionary, model.bias, None, encode=encode)
            Inference(task, other).infer(Lasso(lam), "id")
    assert devices.compilations() == before


def test_codes_of_many_samples_are_held_by_their_non_zeros(task, model, monkeypatch):
    whole = Inference(task, model)
    expected = {encoder: whole.infer(encoder, "ood") for encoder in (TopK(3), Lasso(0.1))}
    monkeypatch.setattr(inference, "DENSE_NUMBERS", len(task.ood.signals) * task.width - 1)
    monkeypatch.setattr(inference, "_CHUNK", 30 * task.width)
    found = Inference(task, model)
    for encoder, dense in expected.items():
        coded = found.infer(encoder, "ood")
        assert scipy.sparse.issparse(coded.codes) and found.seconds(encoder) > 0
        np.testing.assert_allclose(coded.codes.toarray(), dense.codes, atol=1e-5)
    np.testing.assert_allclose(coded.objective, dense.objective, rtol=1e-5)

"""Two processes of two devices each do what one process does, and none is left behind."""

import os
import pickle
import socket
from unittest import mock

import jax
import numpy as np
import pytest

from sae_gap.runtime import distributed, roll_call

TALK = """
assert (distributed.count(), distributed.is_first(), jax.device_count()) == (2, process == 0, 4)

# What the first finds is what all go on with, errors too.
assert distributed.agree(lambda: {"process": process, "long": "x" * 3_000}) == {"process": 0, "long": "x" * 3_000}
assert distributed.gather("x" * 2_000 * process) == ["", "x" * 2_000]
assert distributed.on_first(lambda: "done") == (None if process else "done")
called = []
refused(OSError, lambda: distributed.on_first(lambda: called.append(1) or open(folder + "/none")), "none")
assert len(called) == 1 - process
class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
def odd():
    raise Odd(1, 2)
refused(RuntimeError if process else Odd, lambda: distributed.agree(odd), "1 and 2")
# Half an hour is too little to wait for what the first does alone.
assert os.environ["XLA_FLAGS"].endswith(" --xla_cpu_collective_timeout_seconds=604800")

refused(ValueError, lambda: distributed.start(f"localhost:{port}", 2, process, timeout=60), "joined already")

# Wherever an error names what carries the words between processes.
lost = RuntimeError("FAILED_PRECONDITION: Buffer Definition Event: Gloo all-reduce failed: Connection closed by peer")
assert distributed.is_lost(lost) and not distributed.is_lost(None) and not distributed.is_lost(ValueError("a gloomy value"))

# Any fault ends all.
assert distributed.together(lambda: process) == process
def fault():
    if process:
        raise KeyError("seeds")
refused(KeyError if process else ValueError, lambda: distributed.together(fault), "" if process else "process 1 cannot go on")

distributed.compare({"seeds": "0,1", "k": 3})
other = {"k": 4, "only": 1} if process else {"k": 3}
told = "process 1 differs from process 0 in k (4, not 3), only (1, not nothing)"
refused(ValueError, lambda: distributed.compare({"seeds": "0,1", **other}), told)

# Five rows in two shares of three, the last one twice.
assert distributed.share(5).tolist() == ([3, 4, 4] if process else [0, 1, 2])

# Arrays over the devices of both.
mesh, array = devices.mesh(), np.arange(8.0).reshape(4, 2)
assert mesh.size == 4 and devices.own_mesh().size == 2
placed, key = devices.place({"rows": array, "odd": array[:3]}, mesh), devices.replicate(jax.random.key(3), mesh)
held = [shard.data.tolist() for shard in placed["rows"].addressable_shards]
assert held == array[[[2], [3]] if process else [[0], [1]]].tolist()
assert placed["odd"].is_fully_replicated and not placed["odd"].is_fully_addressable
# Of a file, the rows of its own devices are all that a process needs to read.
names = ("Y_train", "Y_val", "Y_ood")
distributed.on_first(lambda: np.savez(folder + "/mine.npz", **{name: array.astype("float32") for name in names}))
recorded = load(folder + "/mine.npz", width=5)
assert isinstance(recorded.train.signals, np.memmap)
signals = devices.place(recorded.train, mesh).signals
assert [shard.data.tolist() for shard in signals.addressable_shards] == held
assert distributed.whole(signals).tolist() == array.tolist()
distributed.on_first(lambda: np.savez(folder + "/bad.npz", **{name: np.full((4, 2), np.nan, "float32") for name in names}))
refused(ValueError, lambda: load(folder + "/bad.npz", width=5), "NaN")

found = distributed.whole({"placed": placed, "sum": placed["rows"].sum(0), "key": key, "other": "other", "own": jnp.ones(2)})
assert all(leaf.is_fully_addressable for leaf in jax.tree.leaves(found) if isinstance(leaf, jax.Array))
assert found["placed"]["rows"].tolist() == array.tolist() and found["sum"].tolist() == [12, 16] and found["other"] == "other"
assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()
"""

FIT = """
import dataclasses
from sae_gap.checkpoints import Checkpoint
from sae_gap.codes import Codes
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.topk import TopK
from sae_gap.fitting import fit
from sae_gap.inference import Inference
from sae_gap.learners.base import Learner
from sae_gap.learners.sae import SparseAutoencoder
from sae_gap.learners.softplus_adam import SoftplusAdam
from sae_gap.models import Models
from sae_gap.types import Model
from sae_gap import inference

setting = Setting(20, 3, 202)
task, key = draw(setting), jax.random.key(0)

class Killed(Exception):
    pass

def resumed(learner):
    # Clocks tell the processes apart, and one file system need not be the other's.
    checkpoint = Checkpoint(f"{folder}/{process}/state.npz", every=1e9 if process else 0, name="mine")
    def watch(place, steps):
        if steps == 3:
            raise Killed
    refused(Killed, lambda: fit(learner, [task], [key], at=(1, 4), checkpoints=[checkpoint], watch=watch))
    assert checkpoint.path.exists() == (process == 0)
    steps = []
    (found,) = fit(learner, [task], [key], at=(1, 4), checkpoints=[checkpoint], watch=lambda place, step: steps.append(step))
    assert steps[0] == 3 and list(found.along) == [4], (steps, found.along)
    checkpoint.discard()
    assert not checkpoint.path.exists()
    return found.end.model

def stored(learner):
    # The other has neither files nor a folder, and goes the way of the first.
    models = Models(f"{folder}/models{process}")
    begun = models.fit(learner, [setting], [task], (2,))[0]
    found = models.fit(learner, [setting], [task], (2,))[0]
    assert found.end.seconds == distributed.agree(lambda: begun.end.seconds) and list(found.along) == [2]
    assert os.path.exists(f"{folder}/models{process}") == (process == 0)
    return found.end.model

class OnHost(Learner):
    # What only the first process finds, and the other has from it.
    num_steps = 1
    on_host = True
    def learn(self, data, *, num_latents, key):
        assert process == 0
        return Model(np.asarray(task.dictionary), np.zeros(task.input_dim, np.float32))

sae = SparseAutoencoder(encoder=TopK(3), num_steps=6)
adam = SoftplusAdam(num_steps=6, block=3, split="id")
models = {"sae": stored(sae), "adam": resumed(adam), "host": fit(OnHost(), [task], [key])[0].end.model}
assert all(leaf.is_fully_addressable for leaf in jax.tree.leaves(models) if isinstance(leaf, jax.Array))

dense = Inference(task, models["sae"])
encoder = Lasso(0.1, start=TopK(3), tol=None, max_iterations=5)
solution = dense.infer(encoder, "id")
assert len(set(distributed.gather(dense.seconds(encoder)))) == 1
# As codes of very many latents are held.
inference.DENSE_LATENTS = 10
sparse = Inference(task, models["sae"]).infer(TopK(3), "id")
assert isinstance(sparse.codes, Codes)
if process == 0:
    import pickle
    bare = {name: dataclasses.replace(model, encode=None) for name, model in models.items()}
    found = jax.tree.map(np.asarray, (bare, solution, sparse))
    pickle.dump(found, open(folder + "/found.pkl", "wb"))
"""

STREAM = """
from sae_gap import fit_stream
from sae_gap.learners.online import OnlineDictionary

learner = OnlineDictionary(num_steps=4, batch_size=50, num_slots=4, num_rounds=1, replace=False, centred=True)
signals = np.random.default_rng(0).normal(size=(802, 12)).astype(np.float32)
asked = []
def source(start, count):
    asked.append((start, count))
    return signals[start : start + count]
def kill(state):
    # Both devices of a process have its samples, and each half of the atoms.
    assert {shard.data.shape for shard in state.dictionary.addressable_shards} == {(12, 32)}
    if int(state.round) == 2:
        raise Killed
save = Checkpoint(f"{folder}/{process}/stream.npz", every=1e9 if process else 0)
options = {"num_latents": 64, "key": key, "num_samples": 802, "mesh": devices.mesh(latents=2), "checkpoint": save}
refused(Killed, lambda: fit_stream(learner, source, watch=kill, **options))
assert save.path.exists() == (process == 0)
found = fit_stream(learner, source, **options)
# Of each of four minibatches of a round its own 25 rows; once more the first round, by which the fit is known, and no second.
assert asked == [(50 * i + 25 * process, 25) for i in [*range(12), *range(4), *range(8, 16)]], asked
np.savez(f"{folder}/stream{process}.npz", dictionary=found.dictionary, bias=found.bias)
"""


@pytest.fixture(scope="module")
def two(run_pair, tmp_path_factory):
    """What two processes found, which have talked before; one start for all that they do."""
    folder = tmp_path_factory.mktemp("two")
    run_pair(TALK + FIT + STREAM, folder)
    return folder


def test_two_processes_fit_and_code_as_one(two):
    from sae_gap import Setting, draw
    from sae_gap.encoders.lasso import Lasso
    from sae_gap.encoders.topk import TopK
    from sae_gap.learners.softplus_adam import SoftplusAdam
    from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
    from sae_gap.study.fitting import fit
    from sae_gap.study.inference import Inference
    from sae_gap.study.models import Models

    models, solution, sparse = pickle.loads((two / "found.pkl").read_bytes())
    setting = Setting(20, 3, 202)
    task = draw(setting)
    sae = SparseAutoencoder(encoder=TopK(3), num_steps=6)
    adam = SoftplusAdam(num_steps=6, block=3, split="id")
    alone = {"sae": Models().fit(sae, [setting], [task])[0], "adam": fit(adam, [task], [jax.random.key(0)])[0]}
    for name, found in alone.items():
        for one, two in zip(jax.tree.leaves(found.end.model), jax.tree.leaves(models[name]), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_array_equal(models["host"].dictionary, task.dictionary)
    inference = Inference(task, models["sae"])
    known = inference.infer(Lasso(0.1, start=TopK(3), tol=None, max_iterations=5), "id")
    for one, two in zip(jax.tree.leaves(known), jax.tree.leaves(solution), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_allclose(inference.infer(TopK(3), "id").codes, sparse.codes.dense(), atol=1e-5)


def test_two_processes_share_a_stream_and_the_latents_of_its_dictionary(two):
    from sae_gap import fit_stream
    from sae_gap.learners.online.online_dictionary import OnlineDictionary

    # Two blocks of the pursuit, one for each of two devices.
    learner = OnlineDictionary(num_steps=4, batch_size=50, num_slots=4, num_rounds=1, replace=False, centred=True)
    signals = np.random.default_rng(0).normal(size=(802, 12)).astype(np.float32)
    alone = fit_stream(learner, signals, num_latents=64, key=jax.random.key(0))
    for process in range(2):
        found = np.load(two / f"stream{process}.npz")
        np.testing.assert_allclose(found["dictionary"], alone.dictionary, atol=1e-5)
        np.testing.assert_allclose(found["bias"], alone.bias, atol=1e-6)


def test_a_process_by_itself_pays_nothing():
    assert (distributed.count(), distributed.is_first()) == (1, True)
    unpicklable = object.__new__(type("Local", (), {}))
    assert distributed.agree(lambda: unpicklable) is unpicklable and distributed.gather(unpicklable) == [unpicklable]
    assert distributed.on_first(lambda: unpicklable) is unpicklable and distributed.together(lambda: unpicklable) is unpicklable
    assert distributed.share(3).tolist() == [0, 1, 2]
    array = jax.numpy.ones(3)
    assert distributed.whole([array])[0] is array
    distributed.compare({"any": 1})
    with pytest.raises(KeyError):
        distributed.agree(lambda: {}["none"])
    assert not distributed.is_lost(RuntimeError("UNKNOWN: Gloo all-reduce failed"))


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (("localhost:80", 2, None), "given together"),
        ((None, None, 0), "given together"),
        (("localhost", 2, 0), "host:port"),
        ((":80", 2, 0), "host:port"),
        (("localhost:0", 2, 0), "host:port"),
        (("localhost:65536", 2, 0), "host:port"),
        (("localhost:x", 2, 0), "host:port"),
        (("localhost:80", 0, 0), "num_processes must be 1 or more"),
        (("localhost:80", 2, 2), "from 0 to 1"),
        (("localhost:80", 2, -1), "from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(given, fault):
    with pytest.raises(ValueError, match=fault):
        distributed.start(*given)
    with pytest.raises(ValueError, match="timeout"):
        distributed.start("localhost:80", 2, 0, timeout=0)


def test_a_limit_of_ones_own_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_collective_timeout_seconds=5")
    monkeypatch.setattr(jax.distributed, "initialize", mock.Mock(side_effect=RuntimeError("nobody\nis there")))
    # All have answered the roll call.
    monkeypatch.setattr(roll_call.RollCall, "hold", lambda self: None)
    with pytest.raises(ValueError, match=r"cannot be joined \(nobody is there\)"):
        distributed.start("localhost:80", 2, 1)
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_collective_timeout_seconds=5"


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=rf"has port {port}, which cannot be used here \([\w ]+\); choose"):
            distributed.start(f"localhost:{port}", 2, 0)


def test_processes_whose_programs_could_not_talk_to_each_other_are_named(monkeypatch):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **options: None)
    for name, value in (("JAX_ENABLE_X64", "True"), ("JAX_DEFAULT_PRNG_IMPL", "rbg")):
        # The other process has the options of this one, but for one.
        monkeypatch.setattr(distributed, "gather", lambda mine, name=name, value=value: [mine, mine | {name: value}])
        with pytest.raises(ValueError, match=rf"process 1 differs from process 0 in {name} \({value}, not "):
            distributed.start(f"localhost:{port}", 1, 0)

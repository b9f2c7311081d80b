"""Checkpoints: what is saved comes back to the bit, what is not whole is not taken, a killed fit ends like one left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Setting, draw, fit, results
from sae_gap.checkpoints import Checkpoint
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.topk import TopK
from sae_gap.learners.online import OnlineDictionary
from sae_gap.learners.sae import SparseAutoencoder
from sae_gap.study import Method, Study, run

LEARNERS = {
    "online": OnlineDictionary(num_steps=6, visits=4),
    "sae": SparseAutoencoder(TopK(3), num_steps=6),
}


class KilledError(Exception):
    pass


class Mortal(Checkpoint):
    """Dies after its second save."""

    saves = 0

    def store(self, state, seconds):
        super().store(state, seconds)
        self.saves += 1
        if self.saves == 2:
            raise KilledError


def state():
    return {"a": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(3), "count": jnp.asarray(4)}


def test_what_is_saved_comes_back(tmp_path):
    save = Checkpoint(tmp_path / "deep" / "fit.npz")
    save.store(state(), 12.5)
    blank = {"a": jnp.zeros((2, 3)), "key": jax.random.key(0), "count": jnp.asarray(0)}
    found, seconds = save.load(blank)
    assert seconds == 12.5 and found["count"] == 4
    np.testing.assert_array_equal(found["a"], state()["a"])
    np.testing.assert_array_equal(jax.random.normal(found["key"]), jax.random.normal(state()["key"]))
    save.discard()
    save.discard()
    assert save.load(blank) is None


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "other", "array"])
def test_what_is_not_whole_is_not_taken(tmp_path, damage):
    save = Checkpoint(tmp_path / "fit.npz")
    save.store(state() if damage != "other" else {"a": jnp.zeros(3)}, 1.0)
    whole = save.path.read_bytes()
    if damage != "other":
        np.save(save.path.with_suffix(".npy"), np.zeros(3))
        array = save.path.with_suffix(".npy").read_bytes()
        save.path.write_bytes({"array": array, "cut": whole[: len(whole) // 2], "garbage": b"garbage", "empty": b""}[damage])
    start = state()
    assert save.load(start) is None


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_killed_fit_ends_as_if_it_were_not(tmp_path, name, side_by_side):
    tasks = [draw(Setting(20, 3, 200, seed=seed)) for seed in (0, 1)]
    keys = [jax.random.key(seed) for seed in (0, 1)]
    whole = fit(LEARNERS[name], tasks, keys, side_by_side=side_by_side)
    paths = [tmp_path / "0.npz", tmp_path / "1.npz"]
    with pytest.raises(KilledError):
        fit(LEARNERS[name], tasks, keys, side_by_side=side_by_side, checkpoints=[Mortal(path, every=0) for path in paths])
    assert paths[0].exists()
    saves = [Checkpoint(path, every=0) for path in paths]
    resumed = fit(LEARNERS[name], tasks, keys, side_by_side=side_by_side, checkpoints=saves)
    assert resumed.num_steps == whole.num_steps
    for a, b in zip(jax.tree.leaves(whole.models), jax.tree.leaves(resumed.models), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_killed_study_goes_on_in_the_middle_of_a_fit(tmp_path, monkeypatch):
    def study():
        method = Method("online_dl", "dictionary_learning", LEARNERS["online"], Lasso(0.1))
        return Study("s", (Setting(20, 3, 200),), lambda source: [method])

    (whole,) = run(study(), results.Store(tmp_path / "whole"))
    folder = tmp_path / "killed"
    with monkeypatch.context() as patched:
        patched.setattr("sae_gap.study.Checkpoint", lambda path: Mortal(path, every=0))
        with pytest.raises(KilledError):
            run(study(), results.Store(folder))
    assert len(list((folder / "checkpoints").iterdir())) == 1
    taken = []
    load = Checkpoint.load

    def note(found):
        taken.append(int(found[0][0]))
        return found

    monkeypatch.setattr(Checkpoint, "load", lambda self, start: note(load(self, start)))
    (row,) = run(study(), results.Store(folder))
    assert taken == [2]
    assert not (folder / "checkpoints").exists()
    own = {name for name in row if "seconds" in name}
    assert {name: row[name] for name in row if name not in own} == {name: whole[name] for name in whole if name not in own}


def test_a_full_disk_does_not_stop_a_fit(tmp_path):
    (tmp_path / "file").write_text("in the way")
    Checkpoint(tmp_path / "file" / "fit.npz").store(state(), 1.0)

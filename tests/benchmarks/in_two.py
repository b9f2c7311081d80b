"""What two processes fit together in `test_distributed.py`; it imports nothing of pytest."""

import numpy as np
from numpy.random import default_rng

from sae_gap import Setting
from sae_gap.encoders import TopK
from sae_gap.learners import OnlineDictionary, SparseAutoencoder

SETTING = Setting(20, 3, 202)
SAE = SparseAutoencoder(encoder=TopK(3), num_steps=6)
ONLINE = OnlineDictionary(
    num_steps=4, batch_size=50, num_slots=4, num_rounds=1, replace=False, centred=True
)
SIGNALS = default_rng(0).normal(size=(802, 12)).astype(np.float32)

# What two processes run after the commands, of which the first has joined them.
CODE = """
import dataclasses, os, pickle, warnings
import jax, jax.numpy as jnp, numpy as np
from sae_gap import Models, draw, fit_stream
from sae_gap.runtime import devices, distributed
from sae_gap.storage.trees import Checkpoint
from tests.benchmarks.in_two import ONLINE, SAE, SETTING, SIGNALS

warnings.simplefilter("error")
process, folder = distributed.index(), os.environ["FOLDER"]
assert (distributed.count(), str(process), distributed.is_first()) == (2, os.environ["PROCESS"], process == 0)
assert distributed.gather({"process": process, "long": "x" * 3_000 * process})[1] == {"process": 1, "long": "x" * 3_000}
assert distributed.from_first(process) == 0
distributed.wait("here")

mesh, array = devices.mesh(), np.arange(8.0).reshape(4, 2)
assert mesh.size == 4 and devices.own_mesh().size == 2
assert devices.spans_processes(mesh) and not devices.spans_processes(devices.own_mesh())
placed, key = devices.place({"rows": array, "odd": array[:3]}, mesh), devices.replicate(jax.random.key(3), mesh)
mine = [shard.data.tolist() for shard in placed["rows"].addressable_shards]
assert mine == array[[[2], [3]] if process else [[0], [1]]].tolist()
found = distributed.whole({"placed": placed, "sum": placed["rows"].sum(0), "key": key, "other": "other", "own": jnp.ones(2)})
assert all(leaf.is_fully_addressable for leaf in jax.tree.leaves(found) if isinstance(leaf, jax.Array))
assert found["placed"]["rows"].tolist() == array.tolist() and found["sum"].tolist() == [12, 16] and found["other"] == "other"
assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()

# A fit over all devices is kept once, in a folder that both share, and read by both.
models, task = Models(folder + "/models"), draw(SETTING)
begun = models.fit(SAE, [SETTING], [task], (2,), mesh=mesh)[0]
distributed.wait("kept")
again = models.fit(SAE, [SETTING], [task], (2,), mesh=mesh)[0]
assert again.end.seconds == distributed.from_first(begun.end.seconds) and list(again.along) == [2]

class Killed(Exception):
    pass

def kill(state):
    if int(state.round) == 2:
        raise Killed

asked = []
def source(start, count):
    asked.append((start, count))
    return SIGNALS[start : start + count]

# Clocks tell the processes apart; the first one's decides.
save = Checkpoint(folder + "/stream", every=1e9 if process else 0)
options = {"num_latents": 64, "key": jax.random.key(0), "num_samples": 802, "checkpoint": save}
try:
    fit_stream(ONLINE, source, watch=kill, **options)
except Killed:
    distributed.wait("saved")
assert save.folder.exists(save.name)
stream = fit_stream(ONLINE, source, **options)
# Of each of four minibatches of a round the 26 or 24 rows of its own devices; once more the first round, by which the fit is known, and no second.
assert asked == [(50 * i + 26 * process, 26 - 2 * process) for i in [*range(12), *range(4), *range(8, 16)]], asked
bare = [jax.tree.map(np.asarray, dataclasses.replace(one, encode=None)) for one in (begun.end.model, again.end.model, stream)]
pickle.dump(bare, open(f"{folder}/found{process}.pkl", "wb"))
"""

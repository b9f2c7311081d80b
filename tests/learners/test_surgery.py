"""Dictionary surgery: lengths change as told, directions, bias and encoder do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Models, Task
from sae_gap.core import Model
from sae_gap.encoders import TopK, unit_atoms
from sae_gap.learners import SparseAutoencoder, Surgery

SAE = SparseAutoencoder(TopK(3), num_steps=2)


@pytest.mark.parametrize("columns", ["renormed", "oracle_norms"])
def test_lengths_alone_are_changed(task, columns):
    """True atoms of many lengths in another order, with others and signs, and as many again at
    random, which match none.
    """
    rng = np.random.default_rng(0)
    wanted, order = np.linspace(0.5, 2, 20), rng.permutation(20)
    truth = np.asarray(task.dictionary) * wanted
    other = rng.uniform(0.1, 2, 20) * rng.choice([-1, 1], 20)
    atoms = np.concatenate([truth[:, order] * other, rng.normal(size=truth.shape)], axis=1)
    base = SAE.encoder.parameters(jnp.asarray(atoms), jax.random.key(0))
    base = Model(jnp.asarray(atoms, jnp.float32), jnp.ones(len(atoms)), base)
    learner = Surgery(columns, base=SAE)
    data = learner.select(Task(task.train, task.id, task.ood, jnp.asarray(truth), width=40))
    found = learner.learn(data, num_latents=40, key=None, base=base)
    lengths = np.concatenate([wanted[order], np.linalg.norm(atoms[:, 20:], axis=0)])
    np.testing.assert_allclose(
        np.linalg.norm(found.dictionary, axis=0),
        1 if columns == "renormed" else lengths,
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        unit_atoms(found.dictionary)[0], unit_atoms(base.dictionary)[0], atol=1e-6
    )
    assert found.bias is base.bias and found.encoder is base.encoder
    assert found.encode == TopK(3)


def test_it_takes_no_step_and_leaves_no_file_but_its_bases(setting, task, tmp_path):
    models, learner = Models(tmp_path), Surgery("oracle_norms", base=SAE)
    outcome = models.fit(learner, [setting], [task])[0]
    assert outcome.end.step == 0 and models.folder(learner, setting) is None
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"topk"}

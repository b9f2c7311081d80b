"""Dictionary surgery: lengths change as told, directions, bias and encoder do not."""

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap import Models, Split, Task, fit
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.encoders.topk import TopK
from sae_gap.learners.learner import Learner
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.learners.surgery import Surgery

KEY = jax.random.key(0)
SAE = SparseAutoencoder(TopK(3), num_steps=2)


class Shuffled(Learner):
    """The true atoms in another order, with other lengths and signs, and as many again at
    random.
    """

    def select(self, task):
        return task.dictionary

    def init(self, data, *, num_latents, key):
        order_key, length_key, spare_key = jax.random.split(key, 3)
        order = jax.random.permutation(order_key, data.shape[1])
        lengths = jax.random.uniform(length_key, order.shape, minval=-2, maxval=2)
        return jnp.concatenate(
            [data[:, order] * lengths, jax.random.normal(spare_key, data.shape)], axis=1
        )

    def model(self, state):
        return Model(state, jnp.ones(state.shape[0]))


def stretched(task):
    """The task with true atoms of many lengths."""
    lengths = jnp.linspace(0.5, 2, 20)
    split = Split(task.train.signals)
    return Task(split, split, split, task.dictionary * lengths, width=20)


def test_renormed_atoms_have_unit_length(setting, task):
    base = Models().fit(SAE, [setting], [task])[0].end.model
    learner = Surgery("renormed", base=SAE)
    assert learner.coordinates == {"dictionary": "topk", "columns": "renormed"}
    model = Models().fit(learner, [setting], [task])[0].end.model
    before = np.asarray(base.dictionary, np.float64)
    assert np.abs(np.linalg.norm(before, axis=0) - 1).max() > 1e-4
    np.testing.assert_allclose(model.dictionary, before / np.linalg.norm(before, axis=0), atol=1e-6)
    np.testing.assert_array_equal(model.bias, base.bias)
    np.testing.assert_array_equal(model.encoder.weight, base.encoder.weight)
    assert model.encode == TopK(3)


def test_atoms_get_the_lengths_of_the_true_ones_they_match(task):
    task = stretched(task)
    base, found = (
        fit(one, [task], [KEY])[0].end.model
        for one in (Shuffled(), Surgery("oracle_norms", base=Shuffled()))
    )
    truth = np.asarray(task.dictionary)
    np.testing.assert_allclose(
        unit_atoms(found.dictionary)[0], unit_atoms(base.dictionary)[0], atol=1e-6
    )
    # Up to signs the first atoms are the true ones again; those that match none keep their lengths.
    own = np.asarray(found.dictionary)[:, :20, None]
    distance = np.minimum(
        *(np.linalg.norm(own - sign * truth[:, None], axis=0) for sign in (1, -1))
    )
    np.testing.assert_allclose(distance.min(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(found.dictionary[:, :20], axis=0)),
        np.linspace(0.5, 2, 20),
        rtol=1e-4,
    )
    np.testing.assert_allclose(found.dictionary[:, 20:], base.dictionary[:, 20:], rtol=1e-5)
    np.testing.assert_array_equal(found.bias, base.bias)


def test_what_it_needs_and_sees(task):
    bare = Task(Split(task.train.signals), task.id, task.ood, None, width=20)
    assert Surgery("renormed", base=SAE).needs(bare) is None
    assert Surgery("renormed", base=SAE).select(task) is None
    assert Surgery("oracle_norms", base=SAE).needs(bare) == "the true dictionary"
    assert Surgery("renormed", base=Oracle()).needs(bare) == "the true dictionary"
    assert Surgery("oracle_norms", base=SAE).needs(task) is None


def test_it_takes_no_step_and_leaves_no_file_but_its_bases(setting, task, tmp_path):
    models, learner = Models(tmp_path), Surgery("oracle_norms", base=SAE)
    outcome = models.fit(learner, [setting], [task])[0]
    assert outcome.end.step == 0 and models.folder(learner, setting) is None
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"topk"}

"""SAELens reads what `save_sae` writes, with the same codes and reconstructions."""

import numpy as np
import pytest

import sae_gap
from sae_gap import catalogue

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
WIDTH, SPARSITY = 160, 8
EXPORTED = [name for name, kind in catalogue.saes().items() if "exported" in vars(kind)]


@pytest.fixture(scope="module")
def task():
    return sae_gap.draw(sae_gap.Setting(WIDTH, SPARSITY, num_samples=4_000, input_dim=48))


def model_of(name, task):
    """An SAE of an encoder, barely trained, or one that is fitted to a learned dictionary."""
    if name == "learn":
        return sae_gap.learn(task.train.signals, WIDTH, SPARSITY, visits=10).sae(epochs=2).model
    learner = catalogue.tuned_sae(name, sparsity=SPARSITY, input_dim=task.input_dim, num_steps=3)
    return sae_gap.fit(learner, [task], [0])[0].end.model


@pytest.mark.parametrize("name", [*EXPORTED, "learn"])
def test_saelens_has_the_codes_and_reconstructions(name, task, tmp_path):
    import torch
    from sae_lens import SAE

    sae_gap.save_sae(model_of(name, task), tmp_path / "sae")
    ours, theirs = sae_gap.load_sae(tmp_path / "sae"), SAE.load_from_disk(tmp_path / "sae")
    x = np.array(task.ood.signals[:500])
    codes = np.asarray(ours.encode(x))
    with torch.no_grad():
        their_codes = theirs.encode(torch.from_numpy(x))
        pairs = [(codes, their_codes), (np.asarray(ours.decode(codes)), theirs.decode(their_codes))]
    assert codes.any()
    for values, other in pairs:
        np.testing.assert_allclose(values, other.numpy(), rtol=0, atol=1e-5 * np.abs(values).max())

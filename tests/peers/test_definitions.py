"""The page of definitions says of each library what the library's own functions give."""

from types import SimpleNamespace

import numpy as np
from pytest import approx, fixture, mark

from tests.saes.test_definitions import CODE, TOLD

pytestmark = [mark.peers, mark.filterwarnings("default")]


@fixture(scope="module")
def given():
    """The example as float32 tensors, by name."""
    import torch

    names = {}
    exec(CODE, names)
    arrays = {
        name: value for name, value in names.items() if isinstance(value, np.ndarray)
    }
    return {
        name: torch.from_numpy(
            value.astype(np.int64 if name == "tokens" else np.float32)
        )
        for name, value in arrays.items()
    }


def agrees(library, found):
    told = {name: TOLD[library, name] for name in found}
    assert {name: float(value) for name, value in found.items()} == approx(
        told, abs=1e-4
    )


def test_saelens(given):
    import torch
    from sae_lens import evals, synthetic
    from sae_lens.training.sae_trainer import SAETrainer

    x = given["x"]
    z = given["z"]
    guess = given["reconstruction"]
    variance = evals.ExplainedVarianceCalculator()
    l0 = synthetic.L0Calculator()
    dead = synthetic.DeadLatentsCalculator(3)
    variance.add_batch(guess, x)
    l0.add_batch(z)
    dead.add_batch(z)
    clean, patched, zero = (rows @ given["unembedding"].T for rows in (x, guess, 0 * x))
    kl, kl_zero = (evals._kl(clean, other).mean() for other in (patched, zero))
    found = {"explained_variance": variance.compute(), "l0": l0.compute()}
    found |= {"dead_latents": dead.compute(), "kl_div_with_sae": kl}
    found |= {"kl_div_score": 1 - kl / kl_zero}
    found["mean_correlation_coefficient"] = synthetic.mean_correlation_coefficient(
        given["W_dec"], given["true_atoms"]
    )
    # What it logs in training stands in a method of the trainer.
    trainer = SimpleNamespace(
        optimizer=SimpleNamespace(param_groups=[{"lr": 0.0}]),
        n_forward_passes_since_fired=torch.zeros(3),
        dead_neurons=torch.zeros(3),
        coefficient_schedulers={},
    )
    step = SimpleNamespace(
        sae_in=x,
        sae_out=guess,
        feature_acts=z,
        loss=torch.zeros(()),
        losses={},
        metrics={},
    )
    log = SAETrainer.build_train_step_log_dict(trainer, step, 0)
    names = ("explained_variance", "explained_variance_legacy", "l0")
    agrees("SAELens", found)
    agrees("SAELens", {name: log[f"metrics/{name}"] for name in names})


def test_dictionary_learning(given):
    import torch
    from dictionary_learning.evaluation import evaluate

    def dictionary(x, output_features):
        z = torch.relu((x - given["b_dec"]) @ given["W_enc"] + given["b_enc"])
        return z @ given["W_dec"] + given["b_dec"], z

    class Dictionary:
        dict_size = 3
        activation_dim = 2
        __call__ = staticmethod(dictionary)

    found = evaluate(Dictionary(), iter([given["x"]]))
    names = ("frac_variance_explained", "l0", "frac_alive")
    agrees("dictionary_learning", {name: found[name] for name in names})


def test_sparsify(given):
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    # With as many as there are, the k largest of a ReLU are all of it.
    coder = SparseCoder(2, SparseCoderConfig(num_latents=3, k=3))
    with torch.no_grad():
        coder.encoder.weight.copy_(given["W_enc"].T)
        coder.encoder.bias.copy_(given["b_enc"])
        coder.W_dec.copy_(given["W_dec"])
        out = coder(given["x"])
    agrees("sparsify", {"fvu": out.fvu, "k": out.latent_indices.shape[1]})
    never = 1 - len(out.latent_indices.unique()) / 3
    agrees("sparsify", {"dead_pct": never})

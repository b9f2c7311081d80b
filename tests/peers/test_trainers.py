"""TopK SAEs that other libraries train and save have the codes here that they have there.

SAELens and dictionary_learning train by their own trainers. The trainer of sparsify takes a
language model alone, so its coder is trained here on the loss and with the steps of that trainer,
by Adam. Learning rates and auxiliary losses are each library's defaults for the width, and rates
warm up over a tenth of the steps.
"""

import json

import numpy as np
import pytest

import sae_gap
from tests.saes.examples import close

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
WIDTH, SPARSITY = 64, 4
BATCH = 256


@pytest.fixture(scope="module")
def rows():
    setting = sae_gap.Setting(WIDTH, SPARSITY, num_samples=20_000, input_dim=24)
    return np.array(sae_gap.draw(setting).train.signals)


def batches(rows):
    """The batches of one pass in a random order, as tensors; the last wraps around."""
    import torch

    order = np.random.default_rng(0).permutation(len(rows))
    for step in range(num_steps(rows)):
        yield torch.from_numpy(rows[np.take(order, step * BATCH + np.arange(BATCH), mode="wrap")])


def num_steps(rows):
    return max(1, round(len(rows) / BATCH))


def saelens(rows, folder):
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    steps = num_steps(rows)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=rows.shape[1], d_sae=WIDTH, k=SPARSITY))
    length = {"total_training_samples": steps * BATCH, "train_batch_size_samples": BATCH}
    config = SAETrainerConfig(**length, lr_end=3e-5, lr_warm_up_steps=steps // 10)
    trained = SAETrainer(config, sae, batches(rows)).fit()
    trained.save_inference_model(folder)
    return trained


def dictionary_learning(rows, folder):
    import torch
    from dictionary_learning.trainers.top_k import TopKTrainer

    steps = num_steps(rows)
    named = {"layer": 0, "lm_name": "activations", "seed": 0, "device": "cpu"}
    rates = {"warmup_steps": steps // 10, "threshold_start_step": steps // 10}
    trainer = TopKTrainer(steps, rows.shape[1], WIDTH, SPARSITY, **named, **rates)
    for step, batch in enumerate(batches(rows)):
        trainer.update(step, batch)
    folder.mkdir()
    torch.save(trainer.ae.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer.config}))
    return trainer.ae


def sparsify(rows, folder):
    import torch
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    steps = num_steps(rows)
    sae = SparseCoder(rows.shape[1], SparseCoderConfig(num_latents=WIDTH, k=SPARSITY))
    optimiser = torch.optim.Adam(sae.parameters(), lr=2e-4 / (WIDTH / 2**14) ** 0.5)
    warm = max(1, steps // 10)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    for step, batch in enumerate(batches(rows)):
        if step == 0:
            sae.b_dec.data = batch.mean(0)
        sae.set_decoder_norm_to_unit_norm()
        sae(batch).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        rate.step()
    sae.set_decoder_norm_to_unit_norm()
    sae.save_to_disk(folder)
    return lambda x: sae(x).sae_out


@pytest.mark.parametrize("train", [saelens, dictionary_learning, sparsify])
def test_a_trained_sae_reconstructs_here_as_there(train, rows, tmp_path):
    import torch

    torch.manual_seed(0)
    theirs = train(rows, tmp_path / "sae")
    x = rows[:200]
    ours = sae_gap.load_sae(tmp_path / "sae")
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(x)).numpy()
    close(ours.reconstruct(x), wanted)
    assert np.ptp(wanted, axis=0).min() > 0

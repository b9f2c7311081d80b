"""SAELens reads what `save_sae` writes, with the same codes and reconstructions."""

import numpy as np
from pytest import approx, fixture, mark

import sae_gap
from sae_gap import catalogue
from sae_gap.saes import has_form
from tests.saes.examples import close

pytestmark = [mark.peers, mark.filterwarnings("default")]
WIDTH = 160
SPARSITY = 8
EXPORTED = [name for name, kind in catalogue.saes().items() if has_form(kind)]


@fixture(scope="module")
def task():
    return sae_gap.draw(
        sae_gap.Setting(WIDTH, SPARSITY, num_samples=4_000, input_dim=48)
    )


def model_of(name, task):
    """An SAE of an encoder, barely trained, or one that is fitted to a learned dictionary."""
    if name == "learn":
        return (
            sae_gap.learn(task.train.signals, WIDTH, SPARSITY, visits=10)
            .sae(epochs=2)
            .model
        )
    learner = catalogue.tuned_sae(
        name, sparsity=SPARSITY, input_dim=task.input_dim, num_steps=3
    )
    return sae_gap.fit(learner, [task], [0])[0].end.model


@mark.parametrize("name", [*EXPORTED, "learn"])
def test_saelens_has_the_codes_and_reconstructions(name, task, tmp_path):
    import torch
    from sae_lens import SAE

    import sae_gap.torch.saelens

    sae_gap.save_sae(model_of(name, task), tmp_path / "sae")
    ours = sae_gap.load_sae(tmp_path / "sae")
    theirs = SAE.load_from_disk(tmp_path / "sae")
    x = np.array(task.ood.signals[:500])
    codes = np.asarray(ours.encode(x))
    with torch.no_grad():
        their_codes = theirs.encode(torch.from_numpy(x))
        pairs = [
            (codes, their_codes),
            (np.asarray(ours.decode(codes)), theirs.decode(their_codes)),
        ]
    assert codes.any()
    for values, other in pairs:
        close(other.numpy(), values)


def test_saelens_evaluates_a_pursuit_on_a_model(tmp_path):
    """On a random model of three layers and random tokens; its L0 and explained variance are ours."""
    import torch
    from datasets import Dataset
    from sae_lens import SAE, ActivationsStore
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    import sae_gap.torch
    import sae_gap.torch.saelens

    sizes = {"n_layers": 3, "d_model": 24, "n_ctx": 16, "d_head": 12, "n_heads": 2}
    model = HookedTransformer(
        HookedTransformerConfig(**sizes, d_vocab=64, act_fn="gelu", seed=0)
    )
    rows = torch.randint(64, (32, 16), generator=torch.manual_seed(0))
    hook = "blocks.1.hook_resid_post"
    x = model.run_with_cache(rows)[1][hook].detach()
    metadata = {"hook_name": hook, "context_size": 16, "prepend_bos": False}
    ours = sae_gap.torch.SAE(
        torch.randn(60, 24), x.mean((0, 1)), k=4, metadata=metadata
    )
    ours.calibrate(x).save(tmp_path / "sae")
    sae = SAE.load_from_disk(tmp_path / "sae")
    assert (
        torch.equal(sae.encode(x), ours.encode(x))
        and sae.cfg.metadata.hook_name == hook
    )
    tokens = Dataset.from_list([{"tokens": row.tolist()} for row in rows])
    store = ActivationsStore.from_sae(
        model, sae, tokens, streaming=False, store_batch_size_prompts=8
    )
    config = get_eval_everything_config(8, 2, 4)
    found, _ = run_evals(
        sae, store, model, ActivationScaler(), config, exclude_special_tokens=False
    )
    l0 = (ours.encode(x) > 0).sum(-1).float().mean().item()
    assert found["sparsity"]["l0"] == approx(l0)
    flat, guess = (part.detach().reshape(-1, 24).numpy() for part in (x, ours(x)))
    explained = found["reconstruction_quality"]["explained_variance"]
    assert explained == approx(1 - sae_gap.fvu(flat, guess), abs=1e-4)
    assert found["model_behavior_preservation"]["kl_div_score"] < 1
    folded = SAE.load_from_disk(tmp_path / "sae", fold_W_dec_norm=True)
    torch.testing.assert_close(folded(x), sae(x), atol=1e-4, rtol=1e-4)

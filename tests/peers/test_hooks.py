"""A hook of the page on PyTorch costs, in the models of two libraries, the nats of `Downstream`,
and the notebook on PyTorch runs.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from pytest import approx, mark

import sae_gap
from sae_gap.lm import Windows
from sae_gap.torch import SAE
from tests.tiny import masked
from tests.torch.test_module import BLOCKS

pytestmark = [mark.peers, mark.filterwarnings("default")]
# The models of the hooks, the layer, and the block of the page that puts a reconstruction there.
LAYER = 1
VOCABULARY = 64
HIDDEN = 24


def transformer_lens():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 3, "d_model": HIDDEN, "n_ctx": 32, "d_head": 12, "n_heads": 2}
    model = HookedTransformer(
        HookedTransformerConfig(**sizes, d_vocab=VOCABULARY, act_fn="gelu", seed=0)
    )

    def features(tokens, put):
        """The residual stream at the layer, and what the unembedding multiplies."""
        found = {}
        hooks = [
            (
                f"blocks.{LAYER}.hook_resid_post",
                lambda x, hook: found.update(x=x) or put(x),
            ),
            ("ln_final.hook_normalized", lambda x, hook: found.update(features=x)),
        ]
        model.run_with_hooks(tokens, fwd_hooks=hooks)
        return found["x"], found["features"]

    return model, features, model.W_U.mT, model


def transformers():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 3}
    config = LlamaConfig(**sizes, vocab_size=VOCABULARY, num_attention_heads=2)
    model = LlamaForCausalLM(config).eval()

    def features(tokens, put):
        found = {}

        def hook(module, inputs, x):
            found["x"] = x
            return put(x)

        handle = model.model.layers[LAYER].register_forward_hook(hook)
        found["features"] = model.model(tokens).last_hidden_state
        handle.remove()
        return found["x"], found["features"]

    return model, features, model.lm_head.weight, lambda tokens: model(tokens).logits


@torch.no_grad()
@mark.parametrize(("make", "block"), [(transformer_lens, 1), (transformers, 2)])
def test_a_hook_of_the_page_costs_the_nats_of_downstream(make, block):
    torch.manual_seed(0)
    model, features, unembedding, clean = make()
    tokens = torch.randint(VOCABULARY, (4, 30))
    x = features(tokens, lambda x: x)[0]
    # Larger than random weights leave it, so that nats are lost.
    unembedding.mul_(20)
    sae = SAE(torch.randn(40, HIDDEN), x.mean((0, 1)), k=3)
    named = {"model": model, "tokens": tokens, "better": sae, "layer": LAYER}
    before = clean(tokens)
    exec(BLOCKS[block], named)
    assert (clean(tokens) == before).all(), "the hook is gone"

    def loss(logits):
        found = torch.log_softmax(logits[:, :-1], dim=-1).gather(2, tokens[:, 1:, None])
        return -found.mean().item()

    network = sae_gap.Network(
        lambda windows: x.numpy(),
        lambda rows, windows: features(
            tokens, lambda _: torch.tensor(np.asarray(rows))
        )[1].numpy(),
        unembedding.numpy(),
    )
    places = np.broadcast_to(np.arange(30), tokens.shape)
    windows = Windows(jnp.asarray(tokens.numpy()), jnp.zeros(tokens.shape, int), places)
    downstream = sae_gap.Downstream(network, [windows], first=0, outliers="keep")
    score = downstream.score(sae(x).reshape(-1, HIDDEN).numpy())
    assert abs(score["delta_ce"]) > 0.05
    assert loss(named["logits"]) - loss(before) == approx(score["delta_ce"], abs=1e-3)


NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "torch_encoder.ipynb"
# What a reader would type into its form for a trial.
TRIAL = {
    "LAYER": 1,
    "CONTEXT": 32,
    "NUM_SAMPLES": 800,
    "NUM_LATENTS": 64,
    "SPARSITY": 8,
}


def test_the_notebook_runs_without_jax(tmp_path):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = "\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
    )
    for name, value in TRIAL.items():
        code, count = re.subn(
            rf"^{name} = \d+", f"{name} = {value}", code, flags=re.MULTILINE
        )
        assert count == 1
    # The magics of a notebook: installing what is there, and where figures go.
    code = re.sub(r"^( *)%.*", r"\1pass", code, flags=re.MULTILINE)
    end = "assert 'jax' not in sys.modules\nprint(json.dumps(scores))"
    (tmp_path / "notebook.py").write_text(f"{code}\nimport json, sys\n{end}\n")
    environment = {
        **os.environ,
        "MPLBACKEND": "agg",
        "PYTHONPATH": str(NOTEBOOK.parents[1]),
    }
    command = [sys.executable, "notebook.py"]
    options = {
        "cwd": tmp_path,
        "env": environment,
        "check": True,
        "stdout": subprocess.PIPE,
    }
    told = subprocess.run(command, **options, text=True).stdout.splitlines()
    shown = [output for cell in cells for output in cell.get("outputs", ())]
    stored = "".join("".join(output.get("text", ())) for output in shown)
    assert masked("\n".join(told[:-1])) == masked(stored)
    own, refit, pursuit = json.loads(told[-1]).values()
    assert pursuit[0] < refit[0] < own[0] and all(
        kl > 0 for _, kl, _ in (own, refit, pursuit)
    )

"""The language model has the log-probabilities of transformers, and `Downstream` the losses
of SAELens.
"""

import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark

import sae_gap
from sae_gap.lm import Windows, cut, cut_open, pack, pretrained, read_model, read_texts
from tests import tiny

pytestmark = [mark.peers, mark.filterwarnings("default")]
# In nats.
TOLERANCE = 1e-3
# Tokens of a window that nearly nothing comes before.
SKIPPED = 8
LAYER = 10


@fixture(scope="module")
def lm():
    return pretrained.load_lm()


@fixture(scope="module")
def theirs():
    import torch
    from transformers import AutoModelForCausalLM

    path = pretrained.installed()
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


def test_log_probabilities_are_those_of_transformers(lm, theirs):
    """On windows of 16 documents, which transformers runs one by one and this suite several in a
    row.
    """
    import torch

    texts = read_texts().texts
    chosen = np.unique(np.linspace(0, len(texts) - 1, 16).astype(int))
    losses = []
    for windows, *_ in pack(cut(lm.tokenise(texts[i] for i in chosen), 256), 256):
        hidden = lm.model.run_blocks(
            lm.model.embed(windows), windows, 0, lm.model.num_blocks
        )
        for row, tokens, segments in zip(
            hidden,
            np.asarray(windows.tokens),
            np.asarray(windows.segments),
            strict=True,
        ):
            ours = np.asarray(lm.model.log_probabilities(row))
            for segment in range(segments.max() + 1):
                window = segments == segment
                with torch.inference_mode():
                    logits = theirs(
                        torch.from_numpy(tokens[window].astype(np.int64))[None]
                    ).logits[0]
                pair = ours[window], torch.log_softmax(logits, dim=-1).numpy()
                assert np.abs(pair[0] - pair[1]).max() <= TOLERANCE
                targets = tokens[window][SKIPPED:]
                places = SKIPPED - 1 + np.arange(len(targets))
                losses.append([-values[places, targets] for values in pair])
    ours, others = (np.concatenate(part).mean() for part in zip(*losses, strict=True))
    assert ours == approx(others, abs=TOLERANCE)


def test_gemma_has_the_log_probabilities_of_transformers_and_the_tokens_of_sentencepiece(
    tmp_path,
):
    import torch
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from transformers import AutoConfig, AutoModelForCausalLM

    lm = tiny.tiny_lm(tmp_path, architecture="gemma3")
    file = {"gguf_file": "tiny.gguf"}
    config = AutoConfig.from_pretrained(tmp_path, **file)
    # What its reader of GGUF files takes to be as in the models that are published.
    config.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    config.query_pre_attn_scalar = config.head_dim
    config.rope_parameters = {
        kind: {"rope_type": "default", "rope_theta": theta}
        for kind, theta in (("sliding_attention", 10_000.0), ("full_attention", 100.0))
    }
    network = AutoModelForCausalLM.from_pretrained(
        tmp_path, config=config, dtype=torch.float32, **file
    )
    tokens = default_rng(0).integers(0, len(lm.model.embedding), (2, 40))
    windows = Windows(
        tokens, np.zeros_like(tokens), np.broadcast_to(np.arange(40), tokens.shape)
    )
    hidden = lm.model.run_blocks(
        lm.model.embed(windows), windows, 0, lm.model.num_blocks
    )
    with torch.inference_mode():
        expected = torch.log_softmax(
            network.eval()(torch.from_numpy(tokens)).logits, dim=-1
        )
    assert_allclose(lm.model.log_probabilities(hidden), expected.numpy(), atol=1e-4)

    fields = read_model(tmp_path / "tiny.gguf")[1]
    theirs = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(
        *(
            fields[f"tokenizer.ggml.{name}"]
            for name in ("tokens", "scores", "token_type")
        ),
        strict=True,
    ):
        kind = 2 if token == "<unk>" else kind
        theirs.pieces.add(piece=token.replace(" ", "▁"), score=score, type=kind)
    for name, value in {"model_type": 2, "byte_fallback": True, "pad_id": -1}.items():
        setattr(theirs.trainer_spec, name, value)
    (
        theirs.trainer_spec.eos_id,
        theirs.trainer_spec.bos_id,
        theirs.trainer_spec.unk_id,
    ) = range(3)
    theirs.normalizer_spec.name = "identity"
    theirs.normalizer_spec.add_dummy_prefix = False
    theirs.normalizer_spec.remove_extra_whitespaces = False
    cutter = SentencePieceProcessor(model_proto=theirs.SerializeToString())
    for text in (
        "the then",
        "mat  in\n\n\né ▁ x",
        "   the  matinee — 🙂",
        *read_texts().texts[:9],
    ):
        assert lm.tokenise([text])[0].tolist() == [1, *cutter.encode(text)]


class Hooked:
    """As much of a hooked model as SAELens asks for."""

    def __init__(self, model):
        self.model = model

    def __call__(self, tokens, **_):
        import torch

        logits = self.model(tokens).logits
        found = torch.log_softmax(logits[:, :-1], dim=-1)
        return logits, -found.gather(2, tokens[:, 1:, None])[..., 0]

    def run_with_hooks(self, tokens, fwd_hooks, **_):
        def replaced(module, inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            new = fwd_hooks[0][1](hidden, hook=None)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handle = self.model.model.layers[LAYER].register_forward_hook(replaced)
        try:
            return self(tokens)
        finally:
            handle.remove()


def test_losses_downstream_are_those_of_saelens(lm, theirs, tmp_path):
    """Of a small SAE that is fitted to the activations of four windows."""
    import torch
    from sae_lens import SAE
    from sae_lens.evals import get_recons_loss
    from sae_lens.training.activation_scaler import ActivationScaler

    count = 4
    context = 128
    texts = (
        tokens[:context] for tokens in lm.tokenise(read_texts().texts[: 20 * count])
    )
    tokens = np.stack([text for text in texts if len(text) == context][:count])
    places = jnp.broadcast_to(jnp.arange(context), tokens.shape)
    windows = Windows(jnp.asarray(tokens), jnp.zeros(tokens.shape, jnp.int32), places)
    network = cut_open(lm.model, LAYER)
    downstream = sae_gap.Downstream(network, [windows], first=0, outliers="keep")
    x = downstream.activations
    sae_gap.save_sae(
        sae_gap.learn(x, 256, 16, visits=10).sae(epochs=20).model, tmp_path / "sae"
    )
    ours = sae_gap.load_sae(tmp_path / "sae")
    with torch.inference_mode():
        found = get_recons_loss(
            *(SAE.load_from_disk(tmp_path / "sae"), Hooked(theirs), ActivationScaler()),
            torch.from_numpy(tokens.astype(np.int64)),
            compute_kl=True,
            compute_ce_loss=True,
            hook_name="resid",
        )
    # The divergence at the last place of a window has no next token beside it.
    other = {
        name: value[:, : context - 1].mean().item() for name, value in found.items()
    }
    clean = other["ce_loss_without_sae"]
    zero = other["ce_loss_with_ablation"]
    score = downstream.score(ours.decode(ours.encode(x), x))
    assert score["kl"] > 0.01
    assert {
        "clean": downstream.clean.ce.mean(),
        "zero": downstream.zero.ce.mean(),
        **{name: score[name] for name in ("ce", "kl", "ce_score", "kl_score")},
    } == approx(
        {
            "clean": clean,
            "zero": zero,
            "ce": other["ce_loss_with_sae"],
            "kl": other["kl_div_with_sae"],
            "ce_score": (zero - other["ce_loss_with_sae"]) / (zero - clean),
            "kl_score": 1 - other["kl_div_with_sae"] / other["kl_div_with_ablation"],
        },
        abs=TOLERANCE,
    )

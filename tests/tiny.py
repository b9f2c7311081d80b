"""What tests share: a study of seconds, of two seeds, four methods and three learners, and a
language model.
"""

import re

import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng

from sae_gap import Method, Setting, Study, save_activations
from sae_gap.core import Model
from sae_gap.encoders import Affine, Lasso, Linear, TopK
from sae_gap.learners import LinearProbe, Oracle, SparseAutoencoder

SAE = SparseAutoencoder(encoder=TopK(3), num_steps=2)
METHODS = (
    Method("linear_probe", "probe", LinearProbe(), Linear()),
    Method("sae", "sae", SAE, TopK(3)),
    Method("frozen", "frozen", SAE, Lasso()),
    Method("oracle", "oracle", Oracle(), Lasso()),
)
NAMES = [method.name for method in METHODS]
SETTING = Setting(20, 3, 200)


def make(*sources, methods=METHODS, **options):
    return Study(
        "tiny",
        sources or (SETTING, Setting(20, 3, 200, seed=1)),
        lambda _: methods,
        **options,
    )


def signals(task):
    """The signals of all splits."""
    splits = (task.train, task.id, task.ood)
    return np.concatenate([split.signals for split in splits])


def noisy_model(task):
    """An SAE whose atoms are noisy and of other lengths than its encoder's."""
    rng = default_rng(0)
    noise = rng.normal(size=task.dictionary.shape)
    atoms = jnp.asarray(task.dictionary + 0.2 * noise, jnp.float32)
    bias = jnp.asarray(0.3 * rng.normal(size=len(atoms)), jnp.float32)
    weight = Affine(0.13 * atoms, jnp.zeros(atoms.shape[1]))
    return Model(2 * atoms, bias, weight, TopK(2))


def write_rows(path, latents, dim, k):
    """Sparse sums of random atoms, k in each, as activations of 20 documents of 30 rows."""
    rng = default_rng(0)
    atoms = rng.normal(size=(latents, dim))
    shape = 600, latents
    codes = np.where(rng.random(shape) < k / latents, rng.random(shape), 0)
    rows = (codes @ atoms + 2).astype(np.float32)
    save_activations(path, rows, np.arange(600) // 30)


def timeless(rows, *others):
    """Rows without what no two runs share."""
    return [
        {
            name: value
            for name, value in row.items()
            if not name.endswith("_seconds") and name not in others
        }
        for row in rows
    ]


# A Llama of three blocks whose four heads of queries share two of keys and values; tokens are bytes
# and a few pairs of them. Or a Gemma 3 whose heads are twice as wide, whose first and last block see
# four tokens, and whose tokens are SentencePiece's.
PIECES = ["▁t", "he", "▁the", "in", "▁", *"themcaint"]
LM = {"dim": 64, "hidden": 96, "blocks": 3, "heads": 4, "kv_heads": 2, "context": 64}


def write_lm(
    path,
    *,
    quantised=(),
    tied=True,
    frequencies=False,
    seed=0,
    architecture="llama",
    **fields,
):
    """Writes a random model as a GGUF file; `quantised` maps names of tensors to the types that
    they are kept in.

    Returns:
      The tensors by name in float32, as the file has them.
    """
    import gguf
    from tokenizers import pre_tokenizers

    rng = default_rng(seed)
    dim = LM["dim"]
    hidden = LM["hidden"]
    gemma = architecture == "gemma3"
    size = dim // LM["heads"] * (2 if gemma else 1)
    merges = ["t h", "th e", "Ġ the", "i n", "1 2"]
    tokens = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(merge.replace(" ", "") for merge in merges),
    ]
    marks = ["<eos>", "<bos>", "<unk>", "\n\n", "  "]
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*marks, *letters, *dict.fromkeys(PIECES)] if gemma else tokens
    shapes = {"token_embd": (len(tokens), dim), "output_norm": (dim,)} | (
        {} if tied else {"output": (len(tokens), dim)}
    )
    shapes |= {"rope_freqs": (size // 2,)} if frequencies else {}
    for block in range(LM["blocks"]):
        own = {
            "attn_norm": (dim,),
            "ffn_norm": (dim,),
            "attn_q": (LM["heads"] * size, dim),
            "attn_output": (dim, LM["heads"] * size),
        }
        own |= dict.fromkeys(("attn_k", "attn_v"), (LM["kv_heads"] * size, dim))
        own |= {
            "ffn_gate": (hidden, dim),
            "ffn_up": (hidden, dim),
            "ffn_down": (dim, hidden),
        }
        if gemma:
            own |= dict.fromkeys(("post_attention_norm", "post_ffw_norm"), (dim,))
            own |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), (size,))
        shapes |= {f"blk.{block}.{name}": shape for name, shape in own.items()}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(hidden)
    writer.add_block_count(LM["blocks"])
    writer.add_head_count(LM["heads"])
    writer.add_head_count_kv(LM["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_context_length(LM["context"])
    writer.add_rope_freq_base(100.0)
    writer.add_tokenizer_model("llama" if gemma else "gpt2")
    writer.add_tokenizer_pre(fields.pop("pre", "default" if gemma else "smollm"))
    writer.add_token_list(tokens)
    if gemma:
        writer.add_key_length(size)
        writer.add_sliding_window(fields.pop("window", 4))
        writer.add_sliding_window_pattern(2)
        writer.add_token_scores([float(-number) for number in range(len(tokens))])
        writer.add_token_types(
            [3] * 3 + [4] * 2 + [6] * 256 + [1] * (len(tokens) - 261)
        )
        writer.add_bos_token_id(1)
        writer.add_add_space_prefix(fields.pop("space", False))
    else:
        writer.add_token_merges(merges)
    for name, value in fields.items():
        writer.add_string(name, value)
    found = {}
    for name, shape in shapes.items():
        values = rng.normal(size=shape) / (
            shape[-1] ** 0.5 if len(shape) > 1 else 4
        ) + (len(shape) == 1)
        kind = dict(quantised).get(name.split(".")[-1])
        values = values.astype(np.float32)
        if kind is None:
            writer.add_tensor(f"{name}.weight", values)
        else:
            packed = gguf.quantize(values, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
            values = gguf.dequantize(packed, kind)
        found[f"{name}.weight"] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


def tiny_lm(folder, **options):
    """A language model of seconds, read from a GGUF file that is written to a folder."""
    from sae_gap.lm.pretrained import load_lm

    write_lm(folder / "tiny.gguf", **options)
    return load_lm(folder / "tiny.gguf")


def weight(target, atoms, l0, nonneg=True):
    """A λ that some latents of most rows exceed, in the place of `find_weight`, which takes
    seconds.
    """
    correlations = np.asarray(target) @ np.asarray(atoms)
    return float(np.quantile(correlations, 1 - l0 / correlations.shape[1]))


def masked(text):
    """The lines of a text with each number, and each run of quoted tokens, made one sign."""
    tokens = re.sub(r"""(?:(?:'(?:[^'\\\n]|\\.)*'|"[^"\n]*")[ ,%\d]*)+""", "…", text)
    numbers = re.sub(r"[-+]?(?:\d[\d.,e+-]*|nan)", "#", tokens)
    return [
        " ".join(re.sub("-{2,}", "-", line).split()) for line in numbers.splitlines()
    ]

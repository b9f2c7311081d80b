"""What tests share: a study of seconds, of two seeds, four methods and three learners, and a
language model.
"""

import numpy as np

from sae_gap import Method, Setting, Study
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.linear import Linear
from sae_gap.encoders.topk import TopK
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

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
        "tiny", sources or (SETTING, Setting(20, 3, 200, seed=1)), lambda _: methods, **options
    )


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
# and a few pairs of them.
LM = {"dim": 64, "hidden": 96, "blocks": 3, "heads": 4, "kv_heads": 2, "context": 64}


def write_lm(path, *, quantised=(), tied=True, frequencies=False, seed=0, **fields):
    """Writes a random Llama as a GGUF file; `quantised` maps names of tensors to the types that
    they are kept in.

    Returns:
      The tensors by name in float32, as the file has them.
    """
    import gguf
    from tokenizers import pre_tokenizers

    rng, dim, hidden, size = (
        np.random.default_rng(seed),
        LM["dim"],
        LM["hidden"],
        LM["dim"] // LM["heads"],
    )
    merges = ["t h", "th e", "Ġ the", "i n", "1 2"]
    tokens = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(merge.replace(" ", "") for merge in merges),
    ]
    shapes = {"token_embd": (len(tokens), dim), "output_norm": (dim,)} | (
        {} if tied else {"output": (len(tokens), dim)}
    )
    shapes |= {"rope_freqs": (size // 2,)} if frequencies else {}
    for block in range(LM["blocks"]):
        own = {
            "attn_norm": (dim,),
            "ffn_norm": (dim,),
            "attn_q": (dim, dim),
            "attn_output": (dim, dim),
        }
        own |= dict.fromkeys(("attn_k", "attn_v"), (LM["kv_heads"] * size, dim))
        own |= {"ffn_gate": (hidden, dim), "ffn_up": (hidden, dim), "ffn_down": (dim, hidden)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in own.items()}
    writer = gguf.GGUFWriter(path, fields.pop("architecture", "llama"))
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(hidden)
    writer.add_block_count(LM["blocks"])
    writer.add_head_count(LM["heads"])
    writer.add_head_count_kv(LM["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_context_length(LM["context"])
    writer.add_rope_freq_base(100.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields.pop("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    for name, value in fields.items():
        writer.add_string(name, value)
    found = {}
    for name, shape in shapes.items():
        values = rng.normal(size=shape) / (shape[-1] ** 0.5 if len(shape) > 1 else 4) + (
            len(shape) == 1
        )
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


def tiny_lm(folder):
    """A language model of seconds, read from a GGUF file that is written to a folder."""
    from sae_gap.lm.pretrained import load_lm

    write_lm(folder / "tiny.gguf")
    return load_lm(folder / "tiny.gguf")


def weight(subject, x, l0):
    """A λ that some latents of most rows exceed, in the place of `find_weight`, which takes
    seconds.
    """
    correlations = np.asarray(subject.target(x)) @ np.asarray(subject.model.decoder)
    return float(np.quantile(correlations, 1 - l0 / subject.num_latents))


def write_text_sets(folder):
    """Writes the package sae-probes with two binary sets, one of which has shifted texts, and
    returns its folder of data.
    """
    import zstandard

    data = folder / "sae_probes" / "data"
    for inner in (data / "cleaned_data", data / "OOD data"):
        inner.mkdir(parents=True)
    (folder / "sae_probes" / "__init__.py").write_text("raise ImportError")
    kinds = [
        "1_old.csv,Binary Classification",
        "2_odd.csv,Binary Classification",
        "3_other.csv,Regression",
    ]
    files = {
        "probing_datasets_MASTER": [
            "Dataset save name,Data type",
            *(f"cleaned_data/{kind}" for kind in kinds),
        ],
        "cleaned_data/1_old": [
            "prompt,target",
            *(f'"{i}, then",{"no" if i % 3 else "yes"}' for i in (*range(90), 5, 6)),
        ],
        "cleaned_data/2_odd": ["prompt,target", *(f"{i},{i % 2}" for i in range(2_000))],
        "OOD data/1_old_OOD": ["target,prompt", "yes,x", "no,y", "no,z"],
    }
    for name, lines in files.items():
        (data / f"{name}.csv.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    return data

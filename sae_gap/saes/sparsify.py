"""SAEs of the library sparsify: `sae.safetensors` and `cfg.json`, in a folder for each hookpoint."""

from pathlib import Path

from sae_gap.saes import loaded_sae
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage.tensor_files import Config, read_json, read_safetensors

# The files that the library writes.
WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"


def load(folder: Path) -> SAE:
    """The SAE of one hookpoint.

    Args:
      folder: of the configuration and the weights.

    Returns:
      The SAE.

    Raises:
      ValueError: a file cannot be read, or holds no SAE but a transcoder; the message names the fault and the mend.
    """
    path = folder / CONFIG
    config = Config(path, read_json(path))
    tensors = read_safetensors(folder / WEIGHTS)
    if config.flag("transcode", False):
        raise ValueError(f"{path} is of a transcoder, which reconstructs another layer; give an SAE.")
    if config.flag("skip_connection", False) or "W_skip" in tensors:
        raise ValueError(
            f"{path} is of an SAE with a skip connection (W_skip), which no dictionary can stand for; give one without."
        )
    input_dim = config.size("d_in")
    num_latents = config.entries.get("num_latents") or input_dim * config.size("expansion_factor", 32)
    num_latents = Config(path, {"num_latents": num_latents}).size("num_latents")
    k = config.among("k", config.size("k", 32), num_latents)
    activation = config.text("activation", "topk")
    # An older option, which ranks by magnitude.
    signed = config.flag("signed", False)
    if activation not in ("topk", "groupmax") or (signed and activation != "topk"):
        raise ValueError(f"{path} has an unknown activation, {activation!r:.60}; choose topk or groupmax.")
    if activation == "groupmax" and num_latents % k:
        raise ValueError(f"{path} has {num_latents} latents, which are not {k} groups of one size; correct k.")
    infer = {"topk": loaded_sae.abstopk if signed else loaded_sae.topk, "groupmax": loaded_sae.groupmax}[activation]
    bias = tensors.take("b_dec", input_dim)
    weight = tensors.take("encoder.weight", num_latents, input_dim).T
    encoder_bias = tensors.take("encoder.bias", num_latents)
    atoms = tensors.take("W_dec", num_latents, input_dim)
    tensors.finish(activation)
    return loaded_sae.assemble(
        infer(k),
        atoms=atoms,
        bias=bias,
        weight=weight,
        encoder_bias=encoder_bias,
        input_bias=bias,
        library="sparsify",
        architecture="signed topk" if signed else activation,
        notes={"dtype on disk": tensors.dtypes(), "hookpoint": folder.resolve().name, "k": str(k)},
    )

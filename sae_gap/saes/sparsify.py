"""SAEs of the library sparsify: `sae.safetensors` and `cfg.json`, in a folder for each
hookpoint.
"""

from sae_gap.saes.architectures import take
from sae_gap.saes.parts import Parts
from sae_gap.storage import Config, Tensors

# The files that the library writes.
WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"


def load(config: Config, tensors: Tensors) -> Parts:
    """The SAE or the transcoder of one hookpoint.

    Raises:
      ValueError: the files do not fit, or describe an SAE with a skip connection.
    """
    transcodes = config.flag("transcode", False)
    skip = config.flag("skip_connection", False) or "W_skip" in tensors
    if skip and not transcodes:
        raise ValueError(
            f"{config.path} describes a skip connection (W_skip), which no dictionary can replace; "
            "give an SAE without."
        )
    input_dim = config.size("d_in")
    # A width of 0 means a multiple of the dimensions.
    num_latents = config.size("num_latents", 0, least=0) or input_dim * config.size(
        "expansion_factor", 32
    )
    k = config.size("k", 32, most=num_latents)
    activation = config.choice("activation", "topk", ("topk", "groupmax"))
    # An older option: rank by magnitude.
    signed = config.flag("signed", False)
    if activation == "groupmax" and (signed or num_latents % k):
        raise ValueError(
            f"{config.path} has {num_latents} latents, which make no {k} groups of unsigned codes; "
            "correct k or signed."
        )
    encoder = "abstopk" if signed else activation
    held = take(
        encoder,
        tensors,
        (input_dim, num_latents, input_dim),
        names={"W_enc": "encoder.weight", "b_enc": "encoder.bias"},
        linear=("W_enc", "W_skip"),
        skip=skip,
    )
    tensors.finish(activation)
    hookpoint = config.path.parent.resolve().name
    return Parts(
        encoder,
        {"k": k},
        held,
        library="sparsify",
        architecture="signed topk" if signed else activation,
        notes={"dtype on disk": tensors.dtypes(), "hookpoint": hookpoint, "k": str(k)},
        centred=True,
        transcodes=transcodes,
    )

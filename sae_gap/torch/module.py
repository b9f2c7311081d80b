"""An SAE as a module of PyTorch."""

import json
import math
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import sae_gap
from sae_gap.core.checks import check_choice, check_path, check_size
from sae_gap.storage.tensor_files import Config, Tensors, printable, read_json, read_safetensors
from sae_gap.torch.pursuit import (
    CHUNK_ACCELERATED,
    REFINEMENTS,
    as_rows,
    floats,
    in_chunks,
    least_squares,
    mean_length,
    pursue,
    pursuit_codes,
    unit_atoms,
)

# The screened pursuit, by the name that configurations have for it.
PURSUIT = "sae_gap_pursuit"
# What a module infers with, by SAELens's names.
ARCHITECTURES = (PURSUIT, "standard", "topk", "jumprelu")
# The files of an SAE, and that of a dictionary that `learn` learned.
WEIGHTS, CONFIG, LEARNED = "sae_weights.safetensors", "cfg.json", "dictionary.safetensors"


class SAE(nn.Module):
    """A dictionary and, where it has one, its encoder, which code `x ≈ z W_dec + b_dec`.

    By `architecture` the codes z of activations x are, with `p = (x - b_dec) W_enc + b_enc`,

      sae_gap_pursuit   the screened pursuit of `pursuit_codes`, which reads the dictionary alone
      standard          relu(p)
      topk              the k largest relu(p) of a row
      jumprelu          relu(p) above the threshold of each latent

    Whatever the type of x and of the weights, codes are computed in float32 at least, outside of
    any autocast, and come back in the type of x.

    Args:
      W_dec: (num_latents, input_dim), atoms of any length.
      b_dec: (input_dim,); None for zeros.
      W_enc: (input_dim, num_latents), which only a pursuit goes without.
      b_enc: (num_latents,); None for zeros.
      architecture: see above.
      threshold: τ of a pruned pursuit, in units of the root mean square of the atoms' lengths, or
        that of each latent of jumprelu. A pursuit without one has exactly k atoms in a code, if as
        many correlate; `calibrate` finds one.
      k: latents in a code, of a pursuit and of topk.
      breadth: candidates of a screen for each atom that is pursued.
      screens: of a pursuit.
      metadata: what the configuration says beside, such as `hook_name`.

    Attributes:
      cfg: the configuration, whose entries are those of SAELens's.
      chunk: rows that are coded at once, which sets the memory: about
        `4 num_latents + 6 m² + m input_dim` floats a row for the m candidates of a screen. None
        takes 128 on a CPU and 2,048 elsewhere. A gradient holds codes of all rows.
    """

    def __init__(
        self,
        W_dec: Float[Tensor, "num_latents input_dim"],  # noqa: N803
        b_dec: Float[Tensor, " input_dim"] | None = None,
        W_enc: Float[Tensor, "input_dim num_latents"] | None = None,  # noqa: N803
        b_enc: Float[Tensor, " num_latents"] | None = None,
        *,
        architecture: str = PURSUIT,
        threshold: Float[Tensor, "..."] | float | None = None,
        k: int | None = None,
        breadth: int = 2,
        screens: int = 2,
        metadata: dict[str, Any] | None = None,
    ):
        super().__init__()
        check_choice("architecture", architecture, ARCHITECTURES)
        pursued = architecture == PURSUIT
        if W_dec.ndim != 2 or (b_dec is not None and b_dec.shape != W_dec.shape[1:]):
            raise ValueError(
                "W_dec must be (num_latents, input_dim) and b_dec (input_dim,), but W_dec is "
                f"{tuple(W_dec.shape)}; transpose a weight of torch.nn.Linear."
            )
        (width, dim), like = W_dec.shape, {"dtype": W_dec.dtype, "device": W_dec.device}
        options: dict[str, Any] = {}
        if pursued or architecture == "topk":
            check_size("k", k)
            options["k"] = k
        if pursued:
            check_size("breadth", breadth)
            check_size("screens", screens)
            options |= {"breadth": breadth, "screens": screens, "pruned": threshold is not None}
        elif W_enc is None or W_enc.shape != (dim, width):
            raise ValueError(
                f"{architecture} needs W_enc of shape {(dim, width)}; transpose a weight of "
                "torch.nn.Linear, or give architecture='sae_gap_pursuit'."
            )
        elif (threshold is None) == (architecture == "jumprelu"):
            raise ValueError("jumprelu needs a threshold, and no other encoder has one.")
        self.W_dec = _parameter(W_dec)
        self.b_dec = _parameter(torch.zeros(dim, **like) if b_dec is None else b_dec)
        self.W_enc = None if W_enc is None else _parameter(W_enc)
        if W_enc is not None and b_enc is None:
            b_enc = torch.zeros(width, **like)
        self.b_enc = None if b_enc is None else _parameter(b_enc)
        if threshold is not None:
            threshold = torch.as_tensor(threshold, **like)
        self.register_buffer("threshold", threshold)
        self.chunk: int | None = None
        self.cfg = types.SimpleNamespace(
            architecture=architecture,
            d_in=dim,
            d_sae=width,
            dtype="float32",
            device="cpu",
            apply_b_dec_to_input=True,
            normalize_activations="none",
            reshape_activations="none",
            **options,
            metadata=dict(metadata or {}),
        )

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *, k: int | None = None) -> "SAE":
        """The SAE in a folder, with the encoder that it was saved with.

        What this suite wrote, by `save`, `save_sae` or `learn(...).save`, is read by itself; for
        folders of other libraries `sae_gap.load_sae` is called, which imports JAX. A learned
        dictionary has codes of a pursuit at the L0 that it was learned for.

        Args:
          path: of the folder.
          k: of a pursuit in the place of the encoder; None keeps the encoder.

        Raises:
          ValueError: there is no SAE that can be read, or PyTorch has no encoder like its own here.
        """
        check_path("path", path)
        folder = Path(path).expanduser()
        if (folder / LEARNED).is_file():
            return _learned(cls, folder / LEARNED, k)
        config = Config(folder / CONFIG, {})
        if config.path.is_file():
            config = Config(config.path, read_json(config.path))
        ours = "sae_gap_version" in config.part("metadata").entries
        if ours and config.flag("apply_b_dec_to_input", True):
            tensors = read_safetensors(folder / WEIGHTS)
        else:
            config, tensors = _of_another_library(folder, k)
        return _assembled(cls, config, tensors, k)

    def pursuit(self, k: int | None = None, *, breadth: int = 2, screens: int = 2) -> "SAE":
        """An SAE with the same parameters, coded by a screened pursuit; k is its own where it has
        one.
        """
        k = getattr(self.cfg, "k", None) if k is None else k
        parts = self.W_dec, self.b_dec, self.W_enc, self.b_enc
        metadata = self.cfg.metadata
        return type(self)(*parts, k=k, breadth=breadth, screens=screens, metadata=metadata)

    def encode(self, x: Float[Tensor, "... input_dim"]) -> Float[Tensor, "... num_latents"]:
        """The codes, dense and non-negative, NaN for a row that is not finite. Those of a pursuit
        have gradients: values follow x and the dictionary while the choice of atoms stays.
        """
        self._check(x)
        if self.cfg.architecture != PURSUIT:
            return self._by_chunk(self._encoder, x)
        weights, bias = self._dictionary(x)
        codes = pursuit_codes(x - bias, weights, threshold=self.threshold, **self._options)
        return codes.to(x.dtype)

    def decode(self, codes: Float[Tensor, "... num_latents"]) -> Float[Tensor, "... input_dim"]:
        """`z W_dec + b_dec`."""
        with torch.autocast(codes.device.type, enabled=False):
            wide, weights, bias = floats(codes, self.W_dec, self.b_dec)
            return (wide @ weights + bias).to(codes.dtype)

    def forward(self, x: Float[Tensor, "... input_dim"]) -> Float[Tensor, "... input_dim"]:
        """The reconstruction, of codes that are not rounded to the type of x."""
        return self.decode(self.encode(*floats(x))).to(x.dtype)

    def refit(
        self, x: Float[Tensor, "... input_dim"], codes: Float[Tensor, "... num_latents"]
    ) -> Float[Tensor, "... num_latents"]:
        """`argmin_z ‖x - b_dec - z W_dec‖` on the support of the codes, then clamped at zero.

        Where several are best, as on more atoms than dimensions, it takes the one of least norm on
        unit atoms. Gradients reach x and the dictionary.
        """

        def of_rows(x, codes):
            weights, bias = self._dictionary(x)
            found = least_squares(x - bias, weights, codes, REFINEMENTS)
            return torch.where(x.isfinite().all(1, keepdim=True), found, math.nan)

        return self._by_chunk(of_rows, x, codes)

    @torch.no_grad()
    def certify(
        self, x: Float[Tensor, "... input_dim"], codes: Float[Tensor, "... num_latents"], lam: float
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Lasso objective and duality gap of some codes: no codes z ≥ 0 have an objective of less
        than the one minus the other.

        The lasso is `½‖x - b_dec - D z‖² + λ‖z‖₁` on unit atoms D, as everywhere in the suite; with
        `r` the residual, s the largest number up to 1 with `s d_jᵀ r ≤ λ` and `t = s r`,

          gap = ½‖r - t‖² + Σ_j z_j (λ - d_jᵀ t).

        Args:
          x: (..., input_dim).
          codes: whoever found them, in units of W_dec, non-negative, (..., num_latents).
          lam: λ.

        Returns:
          Objectives and gaps, one a row, in float32 at least.

        Raises:
          ValueError: a code is negative.
        """
        if (codes < 0).any():
            raise ValueError("codes must be non-negative, as the lasso's are; give others.")

        def of_rows(x, codes):
            weights, bias = self._dictionary(x)
            atoms, lengths = unit_atoms(weights)
            codes = codes * lengths
            rest = x - bias - codes @ atoms
            pull = rest @ atoms.mT
            scale = (lam / pull.clamp(min=lam)).nan_to_num(1).amin(1, keepdim=True)
            objective = 0.5 * rest.square().sum(1) + lam * codes.sum(1)
            slack = codes * (lam - scale * pull).clamp(min=0)
            gap = 0.5 * ((1 - scale) * rest).square().sum(1) + slack.sum(1)
            return torch.stack([objective, gap], 1)

        objective, gap = self._by_chunk(of_rows, x, codes, cast=False).unbind(-1)
        return objective, gap

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "... input_dim"]) -> "SAE":
        """Prunes the pursuit: of 2 k atoms those stay whose absence would add most to the squared
        error, k on average over the rows of x.

        Args:
          x: such as training rows.

        Returns:
          The same module, whose threshold is set.
        """
        self._check(x)
        if self.cfg.architecture != PURSUIT:
            raise ValueError("only a pursuit is pruned; call sae.pursuit(k).calibrate(x).")
        if not x.isfinite().all():
            raise ValueError("x must be finite, but has NaN or infinite entries; leave them out.")
        weights, bias = self._dictionary(x)
        target, options = as_rows(x - bias)[0], self._options
        options |= {"k": 2 * self.cfg.k, "threshold": 0.0}
        parts = in_chunks(CHUNK_ACCELERATED, target)
        gains = torch.cat([pursue(part, weights, **options)[1] for (part,) in parts])
        ordered = gains.flatten().sort(descending=True).values
        last = min(max(1, round(self.cfg.k * len(gains))), len(ordered)) - 1
        least = (ordered[last] + ordered[min(last + 1, len(ordered) - 1)]) / 2
        self.threshold = (least.sqrt() / mean_length(weights)).to(self.W_dec)
        self.cfg.pruned = True
        return self

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `sae_weights.safetensors` and `cfg.json` in the form of SAELens 6, which
        `from_folder`, `sae_gap.load_sae` and, after `import sae_gap.torch.saelens`, SAELens read.
        """
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        needed = {"W_dec", "b_dec", "threshold"}
        needed |= set() if self.cfg.architecture == PURSUIT else {"W_enc", "b_enc"}
        tensors = {
            name: value.float().cpu().contiguous()
            for name, value in self.state_dict().items()
            if name in needed
        }
        save_file(tensors, folder / WEIGHTS)
        versions = {"sae_lens_version": "6.0.0", "sae_gap_version": sae_gap.__version__}
        entries = vars(self.cfg) | {"metadata": versions | self.cfg.metadata | versions}
        (folder / CONFIG).write_text(json.dumps(entries, indent=1, allow_nan=False) + "\n")

    @property
    def _options(self) -> dict[str, Any]:
        cfg = self.cfg
        return {"breadth": cfg.breadth, "screens": cfg.screens, "k": cfg.k, "chunk": self.chunk}

    def _encoder(self, x):
        _, bias, weights, shift = floats(x, self.b_dec, self.W_enc, self.b_enc)
        hidden = (x - bias) @ weights + shift
        if self.cfg.architecture == "jumprelu":
            hidden = hidden * ~(hidden <= self.threshold)
        elif self.cfg.architecture == "topk" and self.cfg.k < self.cfg.d_sae:
            largest = hidden.topk(self.cfg.k, dim=1)
            hidden = torch.zeros_like(hidden).scatter(1, largest.indices, largest.values)
        return hidden.relu()

    def _dictionary(self, x):
        """W_dec and b_dec in the type that x is coded in."""
        return floats(x, self.W_dec, self.b_dec)[1:]

    def _check(self, x):
        if x.shape[-1] != self.cfg.d_in:
            raise ValueError(
                f"x has {x.shape[-1]} columns, but the SAE has d_in {self.cfg.d_in}; give "
                "activations of the layer that it was trained on."
            )
        if x.device != self.W_dec.device:
            raise ValueError(
                f"x is on {x.device}, but the SAE on {self.W_dec.device}; move one by .to(device)."
            )

    def _by_chunk(self, function: Callable[..., Tensor], *arrays: Tensor, cast: bool = True):
        """A function of rows in float32, with the leading axes and, unless told, the type of the
        first array.
        """
        x = arrays[0]
        self._check(x)
        with torch.autocast(x.device.type, enabled=False):
            parts = in_chunks(self.chunk, *as_rows(*arrays))
            found = torch.cat([function(*part) for part in parts])
        found = found.reshape(*x.shape[:-1], -1)
        return found.to(x.dtype) if cast else found


def _parameter(values):
    return values if isinstance(values, nn.Parameter) else nn.Parameter(torch.as_tensor(values))


def _assembled(cls, config: Config, tensors: Tensors, k: int | None) -> SAE:
    """The SAE of a configuration and tensors in SAELens's form."""
    config.choice("normalize_activations", "none", ("none",))
    dim, width = config.size("d_in"), config.size("d_sae")
    shapes = {"W_dec": (width, dim), "b_dec": (dim,), "W_enc": (dim, width), "b_enc": (width,)}
    held = {
        name: torch.from_numpy(tensors.take(name, *shape))
        for name, shape in shapes.items()
        if name in tensors
    }
    options: dict[str, Any] = {"metadata": config.part("metadata").entries}
    if k is not None:
        return cls(**held, **options, k=k)
    architecture = config.text("architecture", "")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{config.path} has an encoder ({printable(architecture)}) that has no form in PyTorch "
            "here; give k, for a pursuit in its place."
        )
    options |= {n: config.size(n) for n in ("k", "breadth", "screens") if n in config}
    if "threshold" in tensors:
        shape = () if architecture == PURSUIT else (width,)
        options["threshold"] = torch.from_numpy(tensors.take("threshold", *shape))
    return cls(**held, architecture=architecture, **options)


def _of_another_library(folder: Path, k: int | None) -> tuple[Config, Tensors]:
    """What `load_sae` reads, in SAELens's form."""
    import numpy as np
    import safetensors.numpy

    from sae_gap.saes.load import load_sae
    from sae_gap.saes.save import files_of

    loaded = load_sae(folder)
    files = files_of(loaded) if k is None else {}
    if WEIGHTS in files:
        arrays = safetensors.numpy.load(files[WEIGHTS])
        return Config(folder, json.loads(files[CONFIG])), Tensors(folder, arrays)
    entries = {
        "architecture": loaded.architecture,
        "d_in": loaded.input_dim,
        "d_sae": loaded.num_latents,
        "normalize_activations": loaded.normalisation.name,
        "metadata": loaded.notes,
    }
    atoms = np.array((loaded.model.decoder * loaded.scale).T)
    return Config(folder, entries), Tensors(
        folder, {"W_dec": atoms, "b_dec": np.array(loaded.bias)}
    )


def _learned(cls, path: Path, k: int | None) -> SAE:
    """The dictionary that `LearnedDictionary.save` wrote."""
    tensors = read_safetensors(path)
    dim, width = tensors.shape(".dictionary")
    atoms, bias = tensors.take(".dictionary", dim, width), tensors.take(".bias", dim)
    with safe_open(path, "pt") as file:
        l0 = json.loads(file.metadata()["note"])["l0"]
    k = max(1, round(l0)) if k is None else k
    return cls(torch.from_numpy(atoms.T.copy()), torch.from_numpy(bias), k=k)

"""An SAE as a module of PyTorch."""

import dataclasses
import math
import os
import types
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_gap.core.checks import check_choice, check_size
from sae_gap.core.duality import dual_scale, value_and_gap
from sae_gap.core.normalise import Normalisation
from sae_gap.core.pursuit import PURSUIT, by_chunk, least_gain, pursue
from sae_gap.saes.architectures import ARCHITECTURES
from sae_gap.torch import folders
from sae_gap.torch.pursuit import (
    as_rows,
    check_scalar,
    check_tensor,
    floats,
    least_squares,
    mean_length,
    pursuit_codes,
    rows_at_once,
    unit_atoms,
)


class SAE(nn.Module):
    """A dictionary and, where it has one, its encoder, which code `x ≈ z W_dec + b_dec`.

    By `architecture` the codes z of activations x are, with `p = (x - b_dec) W_enc + b_enc`,

      sae_gap_pursuit   the screened pursuit of `pursuit_codes`, which reads the dictionary alone
      standard          relu(p)
      topk              the k largest relu(p) of a row
      abstopk           the k entries of p of largest magnitude
      jumprelu          relu(p) above the threshold of each latent
      gated             relu((x - b_dec) W_enc exp(r_mag) + b_mag) where p > 0
      matching_pursuit  those of SAELens, which may choose an atom again
      groupmax          the largest relu(p) in each of k consecutive groups
      batch_largest     the k n largest relu(p) of n rows: BatchTopK without a threshold

    Whatever the type of x and of the weights, codes are computed in float32 at least, outside of
    any autocast, and come back in the type of x.

    Args:
      W_dec: (num_latents, input_dim), atoms of any length.
      b_dec: (input_dim,); None for zeros.
      W_enc: (input_dim, num_latents), which only pursuits go without.
      b_enc: (num_latents,); None for zeros.
      architecture: see above.
      threshold: τ of a pruned pursuit, in units of the root mean square of the atoms' lengths, or
        that of each latent of jumprelu. A pursuit without one has exactly k atoms in a code, if as
        many correlate; `calibrate` finds one.
      r_mag: of gated, as b_mag, (num_latents,).
      b_mag: of gated.
      k: latents in a code, of a pursuit and of topk.
      breadth: candidates of a screen for each atom that is pursued.
      screens: of a pursuit.
      normalisation: what is done to x before it is coded, whose decoder undoes it; None for none.
      heads: whether x may come as (..., heads, head_dim), which are then laid side by side.
      metadata: what the configuration says beside, such as `hook_name`.
      max_iterations: atoms that matching_pursuit adds up at most; None for input_dim.
      residual_threshold: of matching_pursuit, which stops once less of a row is left.
      stop_on_duplicate_support: whether matching_pursuit stops once it chooses an atom again.

    Attributes:
      cfg: the configuration, whose entries are those of SAELens's.
      chunk: rows that are coded at once, which sets the memory: about
        `4 num_latents + 2 m² + m input_dim` floats a row for the m candidates of a screen. None
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
        r_mag: Float[Tensor, " num_latents"] | None = None,
        b_mag: Float[Tensor, " num_latents"] | None = None,
        k: int | None = None,
        breadth: int = 2,
        screens: int = 2,
        normalisation: Normalisation | None = None,
        heads: bool = False,
        metadata: dict[str, Any] | None = None,
        max_iterations: int | None = None,
        residual_threshold: float = 0.01,
        stop_on_duplicate_support: bool = True,
    ):
        super().__init__()
        check_choice("architecture", architecture, ARCHITECTURES)
        check_tensor("W_dec", W_dec, ("num_latents", "input_dim"), "give atoms as rows")
        _check_finite("W_dec", W_dec)
        (width, dim), like = W_dec.shape, {"dtype": W_dec.dtype, "device": W_dec.device}
        row, pursues = ARCHITECTURES[architecture], architecture == PURSUIT
        takes = {*row.tensors, *row.options}
        sizes = {"k": k, "breadth": breadth, "screens": screens}
        sizes |= {"max_iterations": max_iterations or dim}
        for name in takes & {*sizes}:
            check_size(name, sizes[name])
        again = {"residual_threshold": residual_threshold}
        again |= {"stop_on_duplicate_support": stop_on_duplicate_support}
        options = {name: value for name, value in (sizes | again).items() if name in takes}
        if pursues:
            options["pruned"] = threshold is not None
        if architecture == "groupmax" and width % options["k"]:
            raise ValueError(
                f"k must divide the {width} latents into groups, but it is {k}; give a divisor."
            )
        if threshold is not None:
            if pursues:
                check_scalar("threshold", threshold)
            threshold = torch.as_tensor(threshold, **like)
            if threshold.isnan().any():
                raise ValueError("threshold has NaN entries; give numbers.")
            if not threshold.ndim and not pursues:
                threshold = threshold.expand(width).clone()
        b_dec = torch.zeros(dim, **like) if b_dec is None else b_dec
        if W_enc is not None and b_enc is None:
            b_enc = torch.zeros(width, **like)
        tensors = {"W_dec": W_dec, "b_dec": b_dec, "W_enc": W_enc, "b_enc": b_enc}
        tensors |= {"r_mag": r_mag, "b_mag": b_mag, "threshold": threshold}
        shapes = {"W_dec": (width, dim), "b_dec": (dim,), "W_enc": (dim, width)}
        free = takes | {"W_dec", "b_dec", "W_enc", "b_enc"} | ({"threshold"} if pursues else set())
        for name, value in tensors.items():
            if value is None and name in takes:
                raise ValueError(f"{architecture} needs {name}; give it, or another architecture.")
            if value is not None and name not in free:
                raise ValueError(f"{architecture} has no {name}; leave it out.")
            if value is not None and value.ndim:
                mend = "transpose a weight of torch.nn.Linear"
                check_tensor(name, value, shapes.get(name, (width,)), mend, W_dec)
            if name != "threshold":
                self.register_parameter(name, None if value is None else _parameter(value))
        self.register_buffer("threshold", threshold)
        self._normalises = type(normalisation or Normalisation())
        for field in dataclasses.fields(self._normalises):
            value = torch.as_tensor(getattr(normalisation, field.name), **like)
            self.register_buffer(f"normalisation_{field.name}", value)
        self.chunk: int | None = None
        self.cfg = types.SimpleNamespace(
            architecture=architecture,
            d_in=dim,
            d_sae=width,
            dtype="float32",
            device="cpu",
            apply_b_dec_to_input=True,
            normalize_activations=self._normalises.saelens,
            reshape_activations="hook_z" if heads else "none",
            **options,
            metadata=dict(metadata or {}),
        )

    @classmethod
    def from_folder(
        cls, path: str | os.PathLike[str], sae_id: str | None = None, *, k: int | None = None
    ) -> "SAE":
        """The SAE in a folder, with the encoder that it was saved with.

        It reads what `sae_gap.load_sae` does, and what `learn(...).save` wrote, a dictionary whose
        codes are a pursuit at the L0 that it was learned for.

        Args:
          path: of the folder, or a release in the local cache of the Hugging Face hub.
          sae_id: which SAE of a release; None for a path.
          k: of a pursuit in the place of the encoder; None keeps the encoder.

        Raises:
          ValueError: there is no SAE that can be read, or PyTorch has no encoder like its own here.
        """
        return cls(**folders.read(path, sae_id, k))

    def pursuit(self, k: int | None = None, *, breadth: int = 2, screens: int = 2) -> "SAE":
        """An SAE with the same parameters, coded by a screened pursuit; k is its own where it has
        one, and so is the threshold of a pursuit of as many.
        """
        own = getattr(self.cfg, "k", None)
        k = own if k is None else k
        return type(self)(
            *(self.W_dec, self.b_dec, self.W_enc, self.b_enc),
            threshold=self.threshold if self.cfg.architecture == PURSUIT and k == own else None,
            k=k,
            breadth=breadth,
            screens=screens,
            normalisation=self._normalisation(self.W_dec),
            heads=self._heads,
            metadata=self.cfg.metadata,
        )

    def encode(self, x: Float[Tensor, "... input_dim"]) -> Float[Tensor, "... num_latents"]:
        """The codes, dense, NaN for a row that is not finite; of `abstopk` alone some are negative.
        Those of a pursuit have gradients: values follow x and the dictionary while the choice of
        atoms stays.
        """
        x = self._flat(x)
        whole = x.isfinite().all(-1, keepdim=True)
        x = x.where(whole, 0)
        if self.cfg.architecture == PURSUIT:
            (target,) = self._by_chunk(self._target, x)
            codes = pursuit_codes(target, self.W_dec, threshold=self.threshold, **self._options)
        else:
            (codes,) = self._by_chunk(self._encoder, x)
        if self.cfg.architecture == "batch_largest":
            count = self.cfg.k * codes[..., 0].numel()
            codes = _largest(codes.reshape(1, -1), count).reshape(codes.shape)
        return codes.where(whole, torch.nan).to(x.dtype)

    def decode(
        self,
        codes: Float[Tensor, "... num_latents"],
        like: Float[Tensor, "... input_dim"] | None = None,
    ) -> Float[Tensor, "... input_dim"]:
        """`z W_dec + b_dec`, in the units of activations.

        Args:
          codes: (..., num_latents).
          like: the activations that the codes are of; only an SAE that normalises each row by
            itself asks for them.

        Raises:
          ValueError: `like` is wanted and not given, or the codes are not of as many latents.
        """
        check_tensor("codes", codes, ("...", self.cfg.d_sae), "give the SAE's own", self.W_dec)
        if self._normalises.per_sample and like is None:
            raise ValueError(
                f"this SAE normalises each row by itself ({self._normalises.name}); give like=x, "
                "the activations that the codes are of."
            )
        with torch.autocast(codes.device.type, enabled=False):
            wide, weights, bias = floats(codes, self.W_dec, self.b_dec)
            guess = wide @ weights + bias
            (rows,) = as_rows(guess)
            (beside,) = (None,) if like is None else as_rows(self._flat(like))
            undone = self._normalisation(rows).undo(rows, beside)
            return undone.reshape(guess.shape).to(codes.dtype)

    def forward(self, x: Float[Tensor, "... input_dim"]) -> Float[Tensor, "... input_dim"]:
        """The reconstruction, of codes that are not rounded to the type of x."""
        (wide,) = floats(x)
        return self.decode(self.encode(wide), wide).reshape(x.shape).to(x.dtype)

    def refit(
        self, x: Float[Tensor, "... input_dim"], codes: Float[Tensor, "... num_latents"]
    ) -> Float[Tensor, "... num_latents"]:
        """`argmin_z ‖y - z W_dec‖` on the support of the codes, y being x, normalised, less b_dec;
        clamped at zero but for `abstopk`.

        Where several are best, as on more atoms than dimensions, it takes the one of least norm on
        unit atoms. Gradients reach x and the dictionary.
        """

        def of_rows(x, codes):
            _, weights = floats(x, self.W_dec)
            found = least_squares(self._target(x), weights, codes, anew=True)
            if self.cfg.architecture != "abstopk":
                found = found.clamp(min=0)
            # NaN is on no support, and must show.
            return found.where(torch.cat([x, codes], 1).isfinite().all(1, keepdim=True), math.nan)

        return self._by_chunk(of_rows, x, codes)[0].to(x.dtype)

    @torch.no_grad()
    def certify(
        self, x: Float[Tensor, "... input_dim"], codes: Float[Tensor, "... num_latents"], lam: float
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Lasso objective and duality gap of some codes: no codes z ≥ 0 have an objective of less
        than the one minus the other.

        The lasso is `½‖y - D z‖² + λ‖z‖₁` on unit atoms D, as everywhere in the suite, y being x,
        normalised, less b_dec. With `r` the residual, s the largest number up to 1 with
        `s d_jᵀ r ≤ λ` and `t = s r`,

          gap = ½‖r - t‖² + Σ_j z_j (λ - d_jᵀ t).

        Args:
          x: (..., input_dim).
          codes: whoever found them, in units of W_dec, non-negative, (..., num_latents).
          lam: λ.

        Returns:
          Objectives and gaps, one a row, in float32 at least.

        Raises:
          ValueError: a code or λ is negative, or there are not as many codes as activations.
        """
        check_scalar("lam", lam)

        def of_rows(x, codes):
            if (codes < 0).any():
                raise ValueError("codes must be non-negative, as the lasso's are; give others.")
            atoms, lengths = unit_atoms(*floats(x, self.W_dec)[1:])
            codes = codes * lengths
            rest = self._target(x) - codes @ atoms
            pull = rest @ atoms.mT
            return value_and_gap(rest, codes, pull, lam, dual_scale(pull, lam, nonneg=True))

        return self._by_chunk(of_rows, x, codes)

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "... input_dim"]) -> "SAE":
        """Prunes the pursuit: of 2 k atoms those stay whose absence would add most to the squared
        error, k on average over the rows of x.

        Args:
          x: such as training rows.

        Returns:
          The same module, whose threshold is set.
        """
        if self.cfg.architecture != PURSUIT:
            raise ValueError("only a pursuit is pruned; call sae.pursuit(k).calibrate(x).")
        _check_finite("x", x)
        if not x.numel():
            raise ValueError("x has no rows; give activations, such as training rows.")
        k, options = self.cfg.k, self._options
        (target,) = as_rows(*self._by_chunk(self._target, x))
        options["chunk"] = rows_at_once(self.chunk, target)
        with torch.autocast(x.device.type, enabled=False):
            (weights,) = floats(target, self.W_dec)[1:]
            _, _, gains = pursue(target, unit_atoms(weights)[0], **options | {"k": 2 * k})
            threshold = least_gain(gains, k).sqrt() / mean_length(weights)
        self.threshold = threshold.to(self.W_dec)
        self.cfg.pruned = True
        return self

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `sae_weights.safetensors` and `cfg.json` in the form of SAELens 6, which
        `from_folder`, `sae_gap.load_sae` and, after `import sae_gap.torch.saelens`, SAELens read.
        """
        folders.write(folder, self.cfg, self.state_dict(), self._normalises)

    @property
    def _options(self) -> dict[str, Any]:
        names = ARCHITECTURES[PURSUIT].options
        return {name: getattr(self.cfg, name) for name in names} | {"chunk": self.chunk}

    @property
    def _heads(self) -> bool:
        return self.cfg.reshape_activations == "hook_z"

    def _normalisation(self, like):
        """What is done to activations, in the type of some rows."""
        names = (field.name for field in dataclasses.fields(self._normalises))
        buffers = (getattr(self, f"normalisation_{name}") for name in names)
        return self._normalises(*floats(like, *buffers)[1:])

    def _target(self, x):
        """What the codes of rows add up to."""
        (bias,) = floats(x, self.b_dec)[1:]
        return self._normalisation(x).apply(x) - bias

    def _encoder(self, x):
        architecture, target, k = self.cfg.architecture, self._target(x), getattr(self.cfg, "k", 0)
        if architecture == "matching_pursuit":
            options = (getattr(self.cfg, name) for name in ARCHITECTURES[architecture].options)
            return _match_again(target, *floats(x, self.W_dec)[1:], *options)
        weights, shift = floats(x, self.W_enc, self.b_enc)[1:]
        hidden = target @ weights + shift
        if architecture == "gated":
            scale, bias = floats(x, self.r_mag, self.b_mag)[1:]
            return ((hidden - shift) * scale.exp() + bias).relu() * (hidden > 0)
        if architecture == "abstopk":
            places = hidden.abs().topk(min(k, hidden.shape[1]), dim=1).indices
            return torch.zeros_like(hidden).scatter(1, places, hidden.gather(1, places))
        if architecture == "jumprelu":
            hidden = hidden * ~(hidden <= self.threshold)
        elif architecture == "topk":
            hidden = _largest(hidden, k)
        elif architecture == "groupmax":
            groups = hidden.reshape(len(hidden) * k, hidden.shape[1] // k)
            hidden = _largest(groups, 1).reshape(hidden.shape)
        return hidden.relu()

    def _flat(self, x):
        """Activations with their heads side by side."""
        dim, mend = self.cfg.d_in, "give activations of the layer that the SAE was trained on"
        if self._heads and isinstance(x, Tensor) and x.ndim > 1 and x.shape[-1] != dim:
            x = x.flatten(-2)
        check_tensor("x", x, ("...", dim), mend, self.W_dec)
        return x

    def _by_chunk(self, function: Callable[..., Any], x: Tensor, *codes: Tensor) -> list[Tensor]:
        """What a function gives of rows in float32 at least, with the leading axes of x."""
        x = self._flat(x)
        shape = x.shape[:-1]
        for values in codes:
            mend = "give a row for each of x"
            check_tensor("codes", values, (*shape, self.cfg.d_sae), mend, self.W_dec)

        def found(*rows):
            given = function(*rows)
            return given if isinstance(given, tuple) else (given,)

        with torch.autocast(x.device.type, enabled=False):
            parts = by_chunk(found, rows_at_once(self.chunk, x), *as_rows(x, *codes))
        return [part.reshape(*shape, *part.shape[1:]) for part in parts]


def _check_finite(name, values):
    if not values.isfinite().all():
        raise ValueError(
            f"{name} must be finite, but has NaN or infinite entries, as float16 has beyond 65,504."
        )


def _parameter(values):
    return values if isinstance(values, nn.Parameter) else nn.Parameter(torch.as_tensor(values))


def _largest(values, k):
    """All but the k largest of each row are zero."""
    if k >= values.shape[1]:
        return values
    largest = values.topk(k, dim=1)
    return torch.zeros_like(values).scatter(1, largest.indices, largest.values)


def _match_again(target, atoms, rounds, residual, stop_on_repeat):
    """The codes of `sae_gap.saes.foreign_encoders.RepeatingPursuit`."""
    codes, rest = target.new_zeros(len(target), len(atoms)), target
    done = torch.zeros(len(target), 1, dtype=torch.bool, device=target.device)
    for _ in range(rounds):
        best = (rest @ atoms.mT).argmax(1, keepdim=True)
        atom = atoms[best[:, 0]]
        value = (rest * atom).sum(1, keepdim=True).relu().masked_fill(done, 0)
        before = codes.gather(1, best)
        codes, rest = codes.scatter_add(1, best, value), rest - value * atom
        if stop_on_repeat:
            # The support grows by the chosen atom or not at all.
            done = done | ((before != 0) == (before + value != 0))
        done = done | (rest.norm(dim=1, keepdim=True) < residual)
        if done.all():
            break
    return codes

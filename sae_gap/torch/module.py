"""An SAE as a module of PyTorch."""

from collections.abc import Mapping
from dataclasses import fields
from math import nan
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_gap.core import PURSUIT, AnyPath, Normalisation, counted
from sae_gap.saes.parts import side_by_side
from sae_gap.torch import sae_file, sae_pursuit
from sae_gap.torch.options import (
    as_parameter,
    as_threshold,
    check_finite,
    check_sizes,
    settle_options,
    tensor_like,
)
from sae_gap.torch.pursuit import (
    MANY_ROWS,
    by_rows,
    check_tensor,
    least_squares,
    pursuit_codes,
    pursuit_options,
    supports,
    unit_atoms,
    widened,
)


class SAE(nn.Module):
    """A dictionary and, if it has one, its encoder; the codes satisfy `x ≈ z W_dec + b_dec`.

    The codes z of activations x are, by `architecture` and with `p = (x - b_dec) W_enc + b_enc`,

      sae_gap_pursuit   the screened pursuit of `pursuit_codes`, which uses the dictionary alone
      standard          relu(p)
      topk              the k largest relu(p) of a row
      learned_steps     the k largest z of a row, which is first relu(p), and after each step
                        `relu(z' + (x - b_dec - z' W_dec) W_t + c_t)`, where z' are the `breadth` k
                        largest of z; a hidden layer adds `relu((x - b_dec) A + a) B` to p
      jumprelu          relu(p) above each latent's threshold
      dictionary        none: atoms for `pursuit` and `refit`

    Whatever the types of x and of the weights, codes are computed in float32 at least, outside any
    autocast, and returned in the type of x.

    A transcoder reads x by `p = x W_enc + b_enc`, and its codes explain another activation, as
    `y ≈ z W_dec + b_dec + x W_skip`. Its `refit` and `pursuit` take `signals(y, x)`.

    Args:
      W_dec: (num_latents, input_dim), atoms of any length.
      b_dec: (input_dim,); None for zeros.
      W_enc: (input_dim, num_latents); a pursuit and a dictionary alone need none.
      b_enc: (num_latents,); None for zeros.
      architecture: see above.
      normalisation: normalisation of x before it is coded, which decoding undoes; None for none.
      heads: whether x may come as (..., heads, head_dim), or as (..., layers, dim) of a crosscoder,
        to be laid side by side.
      metadata: further entries of the configuration, such as `hook_name`.
      transcoder: whether it is one, whose W_enc is (num_inputs, num_latents); with W_skip it is.
      W_skip: the affine skip of a transcoder, (num_inputs, input_dim); None for none.
      k: latents in a code.
      breadth: candidates of a screen for each atom of a pursuit, or of a learned step for each
        latent of a code; by default 2.
      screens: screens of a pursuit; by default 2. A coherent dictionary needs 4 to 6; see
        `pursuit_codes`.
      threshold: τ of a pruned pursuit, in units of the root mean square of the atoms' lengths, or
        each latent's threshold of jumprelu. Codes of a pursuit without one have exactly k atoms, if
        as many correlate; `calibrate` finds one.
      steps: c_1, W_1, c_2, W_2, ... of learned_steps, each (num_latents,) or
        (input_dim, num_latents), after a, A and B of its hidden layer, (hidden,),
        (input_dim, hidden) and (hidden, num_latents), if it has one.

    Raises:
      TypeError: the architecture has no such option, or an argument is no tensor of floating-point
        numbers.
      ValueError: an option is missing or out of range, or a tensor has another shape.

    Attributes:
      cfg: the configuration, with SAELens's entries.
      chunk: rows coded at once, which sets the memory: about `4 num_latents` floats a row, and
        elsewhere than on a CPU `2 m² + m input_dim` more for the m candidates of a screen. None
        takes 2,048; on a CPU 128 where an encoder or a gradient takes them. A gradient holds the
        codes of all rows.
    """

    W_dec: Tensor
    b_dec: Tensor
    W_enc: Tensor
    b_enc: Tensor
    W_skip: Tensor
    threshold: Tensor

    def __init__(
        self,
        W_dec: Float[Tensor, "num_latents input_dim"],  # noqa: N803
        b_dec: Float[Tensor, " input_dim"] | None = None,
        W_enc: Float[Tensor, "num_inputs num_latents"] | None = None,  # noqa: N803
        b_enc: Float[Tensor, " num_latents"] | None = None,
        *,
        architecture: str = PURSUIT,
        normalisation: Normalisation | None = None,
        heads: bool = False,
        metadata: Mapping[str, Any] | None = None,
        transcoder: bool = False,
        W_skip: Float[Tensor, "num_inputs input_dim"] | None = None,  # noqa: N803
        **options: Any,
    ):
        super().__init__()
        self.transcodes = transcoder or W_skip is not None
        self.chunk: int | None = None
        self._normalises = type(normalisation or Normalisation())
        options = settle_options(
            architecture, options, transcodes=self.transcodes, encodes=W_enc is not None
        )
        if self.transcodes and self._normalises is not Normalisation:
            raise ValueError(
                "no transcoder normalises what it reads; leave normalisation out."
            )
        num_inputs = self._register_weights(W_dec, b_dec, W_enc, b_enc, W_skip)
        width, dim = W_dec.shape
        self.steps = nn.ParameterList(options.pop("steps", ()))
        threshold = options.pop("threshold", None)
        check_sizes(architecture, options, width, dim)
        self.register_buffer(
            "threshold", as_threshold(architecture, threshold, self.W_dec)
        )
        for field in fields(self._normalises):
            value = tensor_like(getattr(normalisation, field.name), self.W_dec)
            self.register_buffer(f"normalisation_{field.name}", value)
        if architecture == PURSUIT:
            options["pruned"] = threshold is not None
        if self.transcodes:
            options["d_out"] = dim
        self.cfg = SimpleNamespace(
            architecture=architecture,
            d_in=num_inputs,
            d_sae=width,
            dtype="float32",
            device="cpu",
            apply_b_dec_to_input=not self.transcodes,
            normalize_activations=self._normalises.saelens,
            reshape_activations="hook_z" if heads else "none",
            **options,
            metadata=dict(metadata or {}),
        )

    def _register_weights(
        self,
        W_dec: Tensor,  # noqa: N803
        b_dec: Tensor | None,
        W_enc: Tensor | None,  # noqa: N803
        b_enc: Tensor | None,
        W_skip: Tensor | None,  # noqa: N803
    ) -> int:
        """Registers the weights, zeros for biases that are not given, after a check of their
        shapes. Returns the dimension of what the encoder reads.
        """
        check_tensor("W_dec", W_dec, ("num_latents", "input_dim"), "give atoms as rows")
        width, dim = W_dec.shape
        num_inputs = dim
        if self.transcodes and W_enc is not None:
            num_inputs = len(W_enc)
        if b_dec is None:
            b_dec = W_dec.new_zeros(dim)
        if W_enc is not None and b_enc is None:
            b_enc = W_dec.new_zeros(width)
        for name, value, shape in (
            ("W_dec", W_dec, (width, dim)),
            ("b_dec", b_dec, (dim,)),
            ("W_enc", W_enc, (num_inputs, width)),
            ("b_enc", b_enc, (width,)),
            ("W_skip", W_skip, (num_inputs, dim)),
        ):
            self.register_parameter(name, as_parameter(name, value, shape, W_dec))
        return num_inputs

    @classmethod
    def from_folder(
        cls, path: AnyPath, sae_id: str | None = None, *, k: int | None = None
    ) -> "SAE":
        """The SAE in a folder, with its saved encoder if that is a pursuit, ReLU, TopK, JumpReLU or
        learned steps; another SAE opens as a dictionary for `pursuit` and `refit`.

        It reads whatever `sae_gap.load_sae` reads, and the output of `learn(...).save`, a
        dictionary whose codes are a pursuit at the L0 that it was learned for.

        Args:
          path: the folder, or a release in the local cache of the Hugging Face hub.
          sae_id: which SAE of a release; None for a path.
          k: k of a pursuit that replaces the encoder; None keeps the encoder.

        Raises:
          ValueError: there is no SAE that can be read, or k is given for a transcoder.
        """
        return cls(**sae_file.read_arguments(path, sae_id, k))

    def pursuit(
        self, k: int | None = None, *, breadth: int = 2, screens: int = 2
    ) -> "SAE":
        """An SAE with the same parameters, coded by a screened pursuit. By default k is its own k,
        if it has one; a pursuit with that k keeps its threshold. That of a transcoder codes its
        `signals(y, x)`, and so keeps the hook of y, or with a skip none.
        """
        cfg = self.cfg
        metadata = cfg.metadata
        W_enc: Tensor | None = self.W_enc  # noqa: N806
        b_enc: Tensor | None = self.b_enc
        if self.transcodes:
            W_enc = b_enc = None  # noqa: N806
            metadata = sae_pursuit.metadata_of_explained(
                metadata, skips=self.W_skip is not None
            )
        own_k = getattr(cfg, "k", None)
        return type(self)(
            self.W_dec,
            self.b_dec,
            W_enc,
            b_enc,
            k=own_k if k is None else k,
            breadth=breadth,
            screens=screens,
            threshold=self.threshold if self._pursues and k in (None, own_k) else None,
            normalisation=self._normalisation(self.W_dec),
            heads=cfg.reshape_activations == "hook_z",
            metadata=metadata,
        )

    def signals(
        self,
        y: Float[Tensor, "... input_dim"],
        x: Float[Tensor, "... num_inputs"] | None = None,
    ) -> Float[Tensor, "... input_dim"]:
        """`y - x W_skip`: what the codes of a transcoder and b_dec should add up to."""
        y = self._flat(y, explained=True)
        if self.W_skip is None:
            return y
        return y - self._skip(x, y)

    def encode(
        self, x: Float[Tensor, "... num_inputs"]
    ) -> Float[Tensor, "... num_latents"]:
        """The dense codes, NaN for a row that is not finite. Codes of a pursuit have gradients:
        their values follow x and the dictionary while the choice of atoms stays fixed.

        Raises:
          ValueError: it is a dictionary without an encoder.
        """
        if self.cfg.architecture == "dictionary":
            raise ValueError(
                "this SAE's encoder has no form in PyTorch here; code by sae.pursuit(k), or encode "
                "by sae_gap.load_sae or the library that trained it."
            )
        x = self._flat(x)
        whole = x.isfinite().all(-1, keepdim=True)
        clean = x.where(whole, 0)
        if self._pursues:
            target = by_rows(self._target, self.chunk, clean)
            codes = pursuit_codes(
                target, self.W_dec, chunk=self.chunk, **pursuit_options(self)
            )
        else:
            codes = by_rows(self._encoder, self.chunk, clean)
        return codes.where(whole, nan).to(x.dtype)

    def decode(
        self,
        codes: Float[Tensor, "... num_latents"],
        like: Float[Tensor, "... num_inputs"] | None = None,
    ) -> Float[Tensor, "... input_dim"]:
        """`z W_dec + b_dec`, in the units of activations, with a transcoder's skip.

        Args:
          codes: (..., num_latents).
          like: the activations that were coded; needed only for an SAE that normalises each row by
            itself, and for a transcoder with a skip.

        Raises:
          ValueError: `like` is needed and missing, or the codes have another number of latents.
        """
        check_tensor(
            "codes", codes, ("...", self.cfg.d_sae), "give the SAE's own", self.W_dec
        )
        if self._normalises.per_sample and like is None:
            raise ValueError(
                f"this SAE normalises each row by itself ({self._normalises.name}); give like=x, "
                "the activations that the codes are of."
            )

        def of_rows(codes: Tensor, like: Tensor | None = None) -> Tensor:
            decoded = codes @ self.W_dec.to(codes) + self.b_dec.to(codes)
            if self.W_skip is not None:
                return decoded + self._skip(like, decoded)
            return self._normalisation(codes).undo(decoded, like)

        arrays = [codes]
        if like is not None:
            arrays.append(self._rows_of(codes, like, explained=False))
        return by_rows(of_rows, self.chunk, *arrays).to(codes.dtype)

    def forward(
        self, x: Float[Tensor, "... num_inputs"]
    ) -> Float[Tensor, "... input_dim"]:
        """The reconstruction, from codes that are not rounded to the type of x."""
        wide = widened(self._flat(x), x)
        decoded = self.decode(self.encode(wide), wide).to(x.dtype)
        return decoded if self.transcodes else decoded.reshape(x.shape)

    def refit(
        self, x: Float[Tensor, "... input_dim"], codes: Float[Tensor, "... num_latents"]
    ) -> Float[Tensor, "... num_latents"]:
        """`argmin_z ‖y - z W_dec‖` on the support of the codes, with y the normalised x less b_dec;
        clamped at zero unless some of the codes are negative. The codes `own_refit` of the commands
        solve non-negative least squares instead, whose error is no larger.

        If several solutions are best, as with more atoms than dimensions, it takes the one with the
        least norm on unit atoms. Gradients reach x and the dictionary.
        """
        x = self._rows_of(codes, x, explained=True)
        signed = (codes < 0).any()
        atoms, lengths = unit_atoms(widened(self.W_dec, x))

        def of_rows(x: Tensor, codes: Tensor) -> Tensor:
            whole = (x.sum(1) + codes.sum(1)).isfinite()[:, None]
            codes = codes.where(whole, 0)
            places, on = supports(codes)
            target = self._target(x)
            solved = least_squares(target, atoms, codes, places, on, anew=True)
            solved = solved / lengths
            return solved.where(signed, solved.clamp(min=0)).where(whole, nan)

        return by_rows(of_rows, self.chunk, x, codes).to(x.dtype)

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "... input_dim"]) -> "SAE":
        """Prunes the pursuit: of 2 k atoms it drops the one whose absence adds least to the squared
        error, again and again, until k are left on average over the rows of x.

        Args:
          x: rows, of which those of zeros, such as padding, do not count. Give rows that the
            dictionary was not trained on: others than its training rows would have more than k.

        Returns:
          The same module, with its threshold set.

        Raises:
          ValueError: the SAE is no pursuit, x is not finite or all zeros but for one row, or its
            rows have fewer atoms than k.
        """
        if not self._pursues:
            raise ValueError(
                "only a pursuit is pruned; call sae.pursuit(k).calibrate(x)."
            )
        x = self._flat(x).reshape(-1, self.cfg.d_in)
        check_finite("x", x)
        chunk = self.chunk or MANY_ROWS
        target = by_rows(self._target, chunk, counted(x))
        self.threshold = sae_pursuit.pruning_threshold(
            target, self.W_dec, self.cfg, chunk
        )
        self.cfg.pruned = True
        return self

    def save(self, folder: AnyPath) -> None:
        """Writes `sae_weights.safetensors` and `cfg.json` in the form of SAELens 6, which
        `from_folder`, `sae_gap.load_sae` and, after `import sae_gap.torch.saelens`, SAELens read.
        The folder must not have files yet.
        """
        sae_file.save(self, folder)

    def _load_from_state_dict(
        self, state: dict[str, Tensor], prefix: str, *options: Any
    ) -> None:
        if self._pursues and f"{prefix}W_dec" in state:
            self.threshold = state.get(f"{prefix}threshold")  # type: ignore[assignment]
            self.cfg.pruned = self.threshold is not None
            if self.cfg.pruned:
                self.threshold = self.threshold.to(self.W_dec)
        super()._load_from_state_dict(state, prefix, *options)

    @property
    def _pursues(self) -> bool:
        return self.cfg.architecture == PURSUIT

    def _normalisation(self, like: Tensor) -> Normalisation:
        """The normalisation of activations, in the type of some rows."""
        names = [f"normalisation_{field.name}" for field in fields(self._normalises)]
        return self._normalises(*(getattr(self, name).to(like) for name in names))

    def _target(self, x: Tensor) -> Tensor:
        """The target of the codes of rows."""
        return self._normalisation(x).apply(x) - self.b_dec.to(x)

    def _skip(self, x: Tensor | None, like: Tensor) -> Tensor:
        """What the skip of a transcoder adds, in the type of `like`."""
        if x is None:
            raise ValueError(
                "this transcoder adds a skip of its inputs; give what it read, a row for each."
            )
        return self._flat(x).to(like) @ self.W_skip.to(like)

    def _encoder(self, x: Tensor) -> Tensor:
        """The codes of rows by the encoder."""
        target = x if self.transcodes else self._target(x)
        hidden = target @ self.W_enc.to(x) + self.b_enc.to(x)
        if self.cfg.architecture == "learned_steps":
            hidden = self._stepped(target, hidden)
        if self.cfg.architecture == "jumprelu":
            hidden = hidden * ~(hidden <= self.threshold)
        return _largest(hidden, getattr(self.cfg, "k", self.cfg.d_sae))

    def _stepped(self, target: Tensor, hidden: Tensor) -> Tensor:
        """Applies the hidden layer of learned steps, if there is one, and all steps."""
        steps = [step.to(target) for step in self.steps]
        if len(steps) % 2:
            bias, inward, outward, *steps = steps
            hidden = hidden + (bias + target @ inward).relu() @ outward
        for bias, weight in zip(steps[::2], steps[1::2], strict=True):
            few = _largest(hidden, self.cfg.breadth * self.cfg.k)
            hidden = few + (target - few @ self.W_dec.to(target)) @ weight + bias
        return hidden

    def _flat(self, x: Any, *, explained: bool = False) -> Tensor:
        """Activations with their heads side by side: those to encode, or those to explain."""
        dim = self.W_dec.shape[1] if explained else self.cfg.d_in
        by_heads = self.cfg.reshape_activations == "hook_z"
        if by_heads and isinstance(x, Tensor) and x.ndim > 1 and x.shape[-1] != dim:
            x = side_by_side(x, self.cfg.metadata)
        mend = "give activations of the layer that the SAE was trained on"
        check_tensor("x", x, ("...", dim), mend, self.W_dec)
        return x

    def _rows_of(self, codes: Tensor, x: Any, *, explained: bool) -> Tensor:
        """Activations with their heads side by side, whose rows the codes must have."""
        x = self._flat(x, explained=explained)
        shape = (*x.shape[:-1], self.cfg.d_sae)
        check_tensor("codes", codes, shape, "give a row for each of x", self.W_dec)
        return x


def _largest(values: Tensor, k: int) -> Tensor:
    """Keeps the k largest entries of each row where they are positive, and zeroes the others."""
    if k < values.shape[1]:
        largest = values.topk(k, dim=1)
        values = torch.zeros_like(values).scatter(1, largest.indices, largest.values)
    return values.relu()

"""An SAE as a module of PyTorch."""

import dataclasses
import math
import types
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_gap.core import (
    PURSUIT,
    AnyPath,
    Normalisation,
    check_choice,
    check_k,
    check_size,
    check_threshold,
    counted,
    least_gain,
    screen_sizes,
)
from sae_gap.saes import published
from sae_gap.saes.find import locate, read, write_free
from sae_gap.saes.parts import ARCHITECTURES, NOTED, side_by_side, transcoder_of
from sae_gap.torch.pursuit import (
    MANY_ROWS,
    by_rows,
    check_scalar,
    check_tensor,
    least_squares,
    mean_length,
    pursuit_codes,
    pursuit_options,
    screened_pursuit,
    supports,
    unit_atoms,
    widened,
)

# The options of each architecture with their default values; `...` has none.
_OPTIONS: dict[str, dict[str, Any]] = {
    PURSUIT: {"k": ..., "breadth": 2, "screens": 2, "threshold": None},
    "standard": {},
    "topk": {"k": ...},
    "learned_steps": {"k": ..., "breadth": 2, "steps": ()},
    "jumprelu": {"threshold": ...},
    "dictionary": {},
}


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
        metadata: dict[str, Any] | None = None,
        transcoder: bool = False,
        W_skip: Float[Tensor, "num_inputs input_dim"] | None = None,  # noqa: N803
        **options: Any,
    ):
        super().__init__()
        transcoder = transcoder or W_skip is not None
        encodes = transcoder or architecture not in (PURSUIT, "dictionary")
        options = _settled(
            architecture, options, ["W_enc"] * (encodes and W_enc is None)
        )
        if transcoder and architecture in (PURSUIT, "learned_steps"):
            raise ValueError(
                f"a transcoder's {architecture} codes what it explains, not what it reads; give "
                "the architecture of its encoder, and code sae.signals(y, x) by sae.pursuit(k)."
            )
        self._normalises = type(normalisation or Normalisation())
        if transcoder and self._normalises is not Normalisation:
            raise ValueError(
                "no transcoder normalises what it reads; leave normalisation out."
            )
        check_tensor("W_dec", W_dec, ("num_latents", "input_dim"), "give atoms as rows")
        width, dim = W_dec.shape
        read = len(W_enc) if transcoder else dim  # type: ignore[arg-type]
        if W_enc is not None and b_enc is None:
            b_enc = W_dec.new_zeros(width)
        for name, value, shape in (
            ("W_dec", W_dec, (width, dim)),
            ("b_dec", W_dec.new_zeros(dim) if b_dec is None else b_dec, (dim,)),
            ("W_enc", W_enc, (read, width)),
            ("b_enc", b_enc, (width,)),
            ("W_skip", W_skip, (read, dim)),
        ):
            if value is not None:
                check_tensor(
                    name, value, shape, "transpose a weight of torch.nn.Linear", W_dec
                )
                if not isinstance(value, nn.Parameter):
                    value = nn.Parameter(value)
                if name in ("W_dec", "W_skip"):
                    _check_finite(name, value)
            self.register_parameter(name, value)
        self.steps = nn.ParameterList(options.pop("steps", ()))
        self.register_buffer("threshold", self._checked(architecture, options))
        for field in dataclasses.fields(self._normalises):
            value = torch.as_tensor(getattr(normalisation, field.name), **self._like)
            self.register_buffer(f"normalisation_{field.name}", value)
        self.chunk: int | None = None
        self.transcodes = transcoder
        if transcoder:
            options["d_out"] = dim
        entries = {
            "architecture": architecture,
            "d_in": read,
            "d_sae": width,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": not transcoder,
            "normalize_activations": self._normalises.saelens,
            "reshape_activations": "hook_z" if heads else "none",
        }
        self.cfg = types.SimpleNamespace(
            **entries, **options, metadata=dict(metadata or {})
        )

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
        return cls(**_read(path, sae_id, k))

    def pursuit(
        self, k: int | None = None, *, breadth: int = 2, screens: int = 2
    ) -> "SAE":
        """An SAE with the same parameters, coded by a screened pursuit. By default k is its own k,
        if it has one; a pursuit with that k keeps its threshold. That of a transcoder codes its
        `signals(y, x)`, and so keeps the hook of y, or with a skip none.
        """
        pursued = getattr(self.cfg, "k", None)
        metadata = self.cfg.metadata
        if self.transcodes:
            metadata = {}
            for name, value in self.cfg.metadata.items():
                if not name.startswith("hook_"):
                    metadata[name] = value
                elif name.endswith("_out") and self.W_skip is None:
                    metadata[name.removesuffix("_out")] = value
        return type(self)(
            *(
                self.W_dec,
                self.b_dec,
                *((self.W_enc, self.b_enc) * (not self.transcodes)),
            ),
            k=pursued if k is None else k,
            breadth=breadth,
            screens=screens,
            threshold=self.threshold
            if self._pursues and k in (None, pursued)
            else None,
            normalisation=self._normalisation(self.W_dec),
            heads=self.cfg.reshape_activations == "hook_z",
            metadata=metadata,
        )

    def signals(
        self,
        y: Float[Tensor, "... input_dim"],
        x: Float[Tensor, "... num_inputs"] | None = None,
    ) -> Float[Tensor, "... input_dim"]:
        """`y - x W_skip`: what the codes of a transcoder and b_dec should add up to."""
        y = self._flat(y, explained=True)
        return y - self._skip(x, y) if self.transcodes else y

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
        chunk = self.chunk
        whole = x.isfinite().all(-1, keepdim=True)
        clean = x.where(whole, 0)
        if self._pursues:
            target = by_rows(self._target, chunk, clean)
            codes = pursuit_codes(
                target, self.W_dec, chunk=chunk, **pursuit_options(self)
            )
        else:
            codes = by_rows(self._encoder, chunk, clean)
        return codes.where(whole, math.nan).to(x.dtype)

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

        def of_rows(codes, like=None):
            guess = codes @ self.W_dec.to(codes) + self.b_dec.to(codes)
            if self.transcodes:
                return guess + self._skip(like, guess)
            return self._normalisation(codes).undo(guess, like)

        pair = (
            (codes,)
            if like is None
            else self._pairs(like, codes, explained=False)[::-1]
        )
        return by_rows(of_rows, self.chunk, *pair).to(codes.dtype)

    def forward(
        self, x: Float[Tensor, "... num_inputs"]
    ) -> Float[Tensor, "... input_dim"]:
        """The reconstruction, from codes that are not rounded to the type of x."""
        wide = widened(self._flat(x), x)
        found = self.decode(self.encode(wide), wide)
        return (found if self.transcodes else found.reshape(x.shape)).to(x.dtype)

    def refit(
        self, x: Float[Tensor, "... input_dim"], codes: Float[Tensor, "... num_latents"]
    ) -> Float[Tensor, "... num_latents"]:
        """`argmin_z ‖y - z W_dec‖` on the support of the codes, with y the normalised x less b_dec;
        clamped at zero unless some of the codes are negative. The codes `own_refit` of the commands
        solve non-negative least squares instead, whose error is no larger.

        If several solutions are best, as with more atoms than dimensions, it takes the one with the
        least norm on unit atoms. Gradients reach x and the dictionary.
        """
        pair = self._pairs(x, codes)
        signed = (codes < 0).any()
        atoms, lengths = unit_atoms(widened(self.W_dec, x))

        def of_rows(x, codes):
            whole = (x.sum(1) + codes.sum(1)).isfinite()[:, None]
            codes = codes.where(whole, 0)
            held = supports(codes)
            found = (
                least_squares(self._target(x), atoms, codes, *held, anew=True) / lengths
            )
            return found.where(signed, found.clamp(min=0)).where(whole, math.nan)

        return by_rows(of_rows, self.chunk, *pair).to(x.dtype)

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
        _check_finite("x", x)
        x = counted(x)
        cfg = self.cfg
        weights = widened(self.W_dec, x)
        atoms, _ = unit_atoms(weights)

        sizes = screen_sizes(2 * cfg.k, cfg.breadth, cfg.screens, *atoms.shape[::-1])
        gains = by_rows(
            lambda x: screened_pursuit(self._target(x), atoms, *sizes, 0)[2],
            self.chunk or MANY_ROWS,
            x,
        )
        # One that its type rounds to zero would prune nothing.
        least = least_gain(gains.cpu().numpy(), cfg.k * len(x))
        threshold = (float(least) ** 0.5 / mean_length(weights)).to(self.W_dec)
        check_threshold(threshold)
        self.threshold = threshold
        self.cfg.pruned = True
        return self

    def save(self, folder: AnyPath) -> None:
        """Writes `sae_weights.safetensors` and `cfg.json` in the form of SAELens 6, which
        `from_folder`, `sae_gap.load_sae` and, after `import sae_gap.torch.saelens`, SAELens read.
        The folder must not have files yet.
        """
        cfg = self.cfg
        state = self.state_dict()
        if cfg.architecture not in ARCHITECTURES or self._normalises.saelens is None:
            raise ValueError(
                "SAELens has no form for a dictionary without an encoder, learned steps, or the "
                f"normalisation {self._normalises.__name__}; save "
                "sae.pursuit(k) of an SAE with none, or its state_dict() by torch.save."
            )
        entries = vars(cfg)
        if self.transcodes:
            named = transcoder_of(cfg.architecture, "W_skip" in state)
            if named is None:
                raise ValueError(
                    f"SAELens has no form for a transcoder of {cfg.architecture} codes; load and "
                    "save it by sae_gap.load_sae and sae_gap.save_sae."
                )
            entries = entries | {"architecture": named}
        names = (
            "W_dec",
            "b_dec",
            "W_skip",
            "threshold",
            *ARCHITECTURES[cfg.architecture].tensors,
        )
        tensors = {
            name: state[name].float().cpu().numpy() for name in names if name in state
        }
        if "W_skip" in tensors:
            tensors["W_skip"] = tensors["W_skip"].T
        write_free(folder, published.written(entries, tensors, cfg.metadata))

    def _load_from_state_dict(self, state, prefix, *options):
        if self._pursues and f"{prefix}W_dec" in state:
            threshold = state.get(f"{prefix}threshold")
            self.cfg.pruned = threshold is not None
            if threshold is not None:
                threshold = threshold.to(**self._like)
            self.threshold = threshold  # type: ignore[assignment]
        super()._load_from_state_dict(state, prefix, *options)

    @property
    def _like(self):
        return {"dtype": self.W_dec.dtype, "device": self.W_dec.device}

    def _checked(self, architecture, options):
        """The threshold as a tensor, or None, after a check of all options; a pursuit's say whether
        there is one.
        """
        width, dim = self.W_dec.shape
        threshold = options.pop("threshold", None)
        for name, value in options.items():
            check_size(name, value)
        if architecture == PURSUIT:
            check_k(options["k"], dim, width)
            options["pruned"] = threshold is not None
            if threshold is not None:
                check_scalar("threshold", threshold)
        elif options.get("k", 1) > width:
            raise ValueError(
                f"k must be at most the {width} latents, but it is {options['k']}."
            )
        if threshold is not None:
            threshold = torch.as_tensor(threshold, **self._like)
        if architecture == "jumprelu":
            threshold = threshold if threshold.ndim else threshold.expand(width).clone()
            check_tensor("threshold", threshold, (width,), "give one for each latent")
            # With an infinite threshold a latent never fires, or always.
            _check_finite("threshold", threshold.clamp(-1, 1))
        return threshold

    @property
    def _pursues(self):
        return self.cfg.architecture == PURSUIT

    def _normalisation(self, like):
        """The normalisation of activations, in the type of some rows."""
        fields = dataclasses.fields(self._normalises)
        return self._normalises(
            *(getattr(self, f"normalisation_{field.name}").to(like) for field in fields)
        )

    def _target(self, x):
        """The target of the codes of rows."""
        return self._normalisation(x).apply(x) - self.b_dec.to(x)

    def _skip(self, x, like):
        """What the skip of a transcoder adds."""
        if self.W_skip is None:
            return torch.zeros_like(like)
        if x is None:
            raise ValueError(
                "this transcoder adds a skip of its inputs; give what it read, a row for each."
            )
        return self._flat(x).to(like) @ self.W_skip.to(like)

    def _encoder(self, x):
        target = x if self.transcodes else self._target(x)
        hidden = target @ self.W_enc.to(x) + self.b_enc.to(x)
        parts = (part.to(x) for part in self.steps)
        if len(self.steps) % 2:
            hidden = hidden + (next(parts) + target @ next(parts)).relu() @ next(parts)
        for bias in parts:
            few = _largest(hidden, self.cfg.breadth * self.cfg.k)
            hidden = few + (target - few @ self.W_dec.to(x)) @ next(parts) + bias
        if self.cfg.architecture == "jumprelu":
            hidden = hidden * ~(hidden <= self.threshold)
        return _largest(hidden, getattr(self.cfg, "k", self.cfg.d_sae))

    def _flat(self, x, *, explained=False):
        """Activations with their heads side by side: those to encode, or those to explain."""
        dim = self.W_dec.shape[1] if explained else self.cfg.d_in
        if (
            self.cfg.reshape_activations == "hook_z"
            and isinstance(x, Tensor)
            and x.ndim > 1
            and x.shape[-1] != dim
        ):
            x = side_by_side(x, self.cfg.metadata)
        check_tensor(
            "x",
            x,
            ("...", dim),
            "give activations of the layer that the SAE was trained on",
            self.W_dec,
        )
        return x

    def _pairs(self, x, codes, *, explained=True):
        """Activations and codes of the same rows."""
        x = self._flat(x, explained=explained)
        shape = (*x.shape[:-1], self.cfg.d_sae)
        check_tensor("codes", codes, shape, "give a row for each of x", self.W_dec)
        return x, codes


def _read(path, sae_id, k):
    """The arguments of the SAE in a folder, without an encoder unless this module has it."""
    parts = read(locate(path, sae_id))
    if parts.encoder is None and k is None and "l0" in parts.notes:
        k = max(1, round(float(parts.notes["l0"])))
    held: Any = {
        name: torch.from_numpy(value)
        for name, value in parts.settled(parts.atoms.dtype).items()
    }
    notes = {name: parts.notes[name] for name in NOTED if name in parts.notes}
    about: Any = {
        "normalisation": parts.normalisation,
        "heads": parts.heads,
        "metadata": notes | dict(parts.metadata),
        "transcoder": parts.transcodes,
    }
    if k is None and parts.encoder in _OPTIONS:
        return held | about | dict(parts.options) | {"architecture": parts.encoder}
    if k is None and parts.encoder == "sae_gap.LearnedSteps":
        # A bias comes before its weight, and the first map and a hidden layer before the steps.
        places = sorted(
            {*held} - {"W_dec", "b_dec"}, key=lambda name: (name.find("]"), name)
        )
        b_enc, W_enc, *steps = map(held.pop, places)  # noqa: N806
        about |= {
            "architecture": "learned_steps",
            "b_enc": b_enc,
            "W_enc": W_enc,
            "steps": steps,
        }
        return held | about | {name: parts.options[name] for name in ("k", "breadth")}
    names = {"W_dec", "b_dec", "W_enc", "b_enc", "W_skip"}
    about |= {"architecture": "dictionary"} if k is None else {"k": k}
    return {name: held[name] for name in names & held.keys()} | about


def _largest(values, k):
    """Keeps the k largest entries of each row where they are positive, and zeroes the others."""
    if k < values.shape[1]:
        largest = values.topk(k, dim=1)
        values = torch.zeros_like(values).scatter(1, largest.indices, largest.values)
    return values.relu()


def _settled(architecture, given, missing):
    """The options of an architecture, those that are not given with their default values."""
    check_choice("architecture", architecture, _OPTIONS)
    given = {name: value for name, value in given.items() if value is not None}
    if foreign := sorted(given.keys() - _OPTIONS[architecture]):
        raise TypeError(f"{architecture} has no {', '.join(foreign)}; leave it out.")
    options = _OPTIONS[architecture] | given
    missing = [*missing, *(name for name, value in options.items() if value is ...)]
    if missing:
        raise ValueError(f"{architecture} needs {', '.join(missing)}; give it.")
    return options


def _check_finite(name, values):
    if not values.isfinite().all():
        raise ValueError(
            f"{name} must be finite, but has NaN or infinite entries, as float16 has beyond 65,504."
        )

"""An SAE as a module of PyTorch."""

import dataclasses
import math
import os
import types
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_gap.core.checks import check_choice, check_size
from sae_gap.core.duality import dual_scale, value_and_gap
from sae_gap.core.normalise import Normalisation
from sae_gap.core.pursuit import PURSUIT, check_k, least_gain, screen_sizes
from sae_gap.core.rows import counted
from sae_gap.saes.architectures import ARCHITECTURES
from sae_gap.torch import folders
from sae_gap.torch.pursuit import (
    MANY_ROWS,
    by_rows,
    check_scalar,
    check_tensor,
    least_squares,
    mean_length,
    pursue,
    pursuit_codes,
    pursuit_options,
    supports,
    unit_atoms,
    widened,
)

# Default values of options.
_DEFAULTS = {
    "breadth": 2,
    "screens": 2,
    "residual_threshold": 0.01,
    "stop_on_duplicate_support": True,
}


class SAE(nn.Module):
    """A dictionary and, if it has one, its encoder; the codes satisfy `x ≈ z W_dec + b_dec`.

    The codes z of activations x are, by `architecture` and with `p = (x - b_dec) W_enc + b_enc`,

      sae_gap_pursuit   the screened pursuit of `pursuit_codes`, which uses the dictionary alone
      standard          relu(p)
      topk              the k largest relu(p) of a row
      abstopk           the k entries of p with the largest magnitude
      jumprelu          relu(p) above each latent's threshold
      gated             relu((x - b_dec) W_enc exp(r_mag) + b_mag) where p > 0
      matching_pursuit  those of SAELens, which may choose an atom again
      groupmax          the largest relu(p) in each of k consecutive groups
      batch_largest     the k n largest relu(p) of n rows: BatchTopK without a threshold

    Whatever the types of x and of the weights, codes are computed in float32 at least, outside any
    autocast, and returned in the type of x.

    A transcoder reads x by `p = x W_enc + b_enc`, and its codes explain another activation, as
    `y ≈ z W_dec + b_dec + x W_skip`. Its `refit`, `certify` and `pursuit` take `signals(y, x)`.

    Args:
      W_dec: (num_latents, input_dim), atoms of any length.
      b_dec: (input_dim,); None for zeros.
      W_enc: (input_dim, num_latents); only pursuits need none.
      b_enc: (num_latents,); None for zeros.
      architecture: see above.
      normalisation: normalisation of x before it is coded, which decoding undoes; None for none.
      heads: whether x may come as (..., heads, head_dim), to be laid side by side.
      metadata: further entries of the configuration, such as `hook_name`.
      transcoder: whether it is one, whose W_enc is (num_inputs, num_latents).
      W_skip: the affine skip of a transcoder, (num_inputs, input_dim); None for none.
      k: latents in a code, or groups of groupmax.
      breadth: candidates of a screen for each atom of a pursuit; by default 2.
      screens: screens of a pursuit; by default 2. A coherent dictionary needs 4 to 6; see
        `pursuit_codes`.
      threshold: τ of a pruned pursuit, in units of the root mean square of the atoms' lengths, or
        each latent's threshold of jumprelu. Codes of a pursuit without one have exactly k atoms, if
        as many correlate; `calibrate` finds one.
      r_mag: of gated, as b_mag, (num_latents,).
      b_mag: of gated.
      max_iterations: atoms that matching_pursuit adds up at most; by default input_dim.
      residual_threshold: matching_pursuit stops once the residual's norm is below this; by default
        0.01.
      stop_on_duplicate_support: whether matching_pursuit stops once it chooses an atom again; by
        default it does.

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
    r_mag: Tensor
    b_mag: Tensor
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
        **options: Any,
    ):
        super().__init__()
        check_choice("architecture", architecture, ARCHITECTURES)
        check_tensor("W_dec", W_dec, ("num_latents", "input_dim"), "give atoms as rows")
        (width, dim), like = W_dec.shape, dict[str, Any](dtype=W_dec.dtype, device=W_dec.device)
        row, defaults = ARCHITECTURES[architecture], _DEFAULTS | {"max_iterations": dim}
        needed = {"W_dec", *row.tensors, *row.options} - {"b_enc", "b_gate"}
        given: dict[str, Any] = {"W_dec": W_dec, "b_dec": b_dec, "W_enc": W_enc, "b_enc": b_enc}
        given = {name: value for name, value in (given | options).items() if value is not None}
        given = {name: defaults[name] for name in needed & defaults.keys()} | given
        free = {"b_dec", "W_enc", "b_enc"} | ({"threshold"} if architecture == PURSUIT else set())
        free |= {"W_skip"} if transcoder else set()
        needed |= {"W_enc"} if transcoder else set()
        if foreign := sorted(given.keys() - needed - free):
            raise TypeError(f"{architecture} has no {', '.join(foreign)}; leave it out.")
        if missing := sorted(needed - given.keys()):
            raise ValueError(f"{architecture} needs {', '.join(missing)}; give it.")
        zeros = {"b_dec": dim} | ({} if W_enc is None else {"b_enc": width})
        given = {**{name: torch.zeros(size, **like) for name, size in zeros.items()}, **given}
        for name in given.keys() & {"k", "breadth", "screens", "max_iterations"}:
            check_size(name, given[name])
        if given.get("k", 1) > width:
            raise ValueError(f"k must be at most the {width} latents, but it is {given['k']}.")
        if architecture == "groupmax" and width % given["k"]:
            raise ValueError(f"k must divide the {width} latents into groups; give a divisor.")
        threshold: Any = given.pop("threshold", None)
        if architecture == PURSUIT:
            check_k(given["k"], dim, width)
            given["pruned"] = threshold is not None
        read = len(given["W_enc"]) if transcoder else dim
        shapes = {"W_dec": (width, dim), "b_dec": (dim,), "W_enc": (read, width)}
        shapes["W_skip"] = (read, dim)
        for name in ("W_dec", "b_dec", "W_enc", "b_enc", "r_mag", "b_mag", "W_skip"):
            value, shape = given.pop(name, None), shapes.get(name, (width,))
            if value is not None:
                check_tensor(name, value, shape, "transpose a weight of torch.nn.Linear", W_dec)
                value = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
            self.register_parameter(name, value)
        _check_finite("W_dec", W_dec)
        if transcoder and type(normalisation or Normalisation()) is not Normalisation:
            raise ValueError("no transcoder normalises what it reads; leave normalisation out.")
        if self.W_skip is not None:
            _check_finite("W_skip", self.W_skip)
        if threshold is not None:
            if architecture == PURSUIT:
                check_scalar("threshold", threshold)
            threshold = torch.as_tensor(threshold, **like)
        if architecture == "jumprelu":
            threshold = threshold if threshold.ndim else threshold.expand(width).clone()
            check_tensor("threshold", threshold, (width,), "give one for each latent")
            # With an infinite threshold a latent never fires, or always.
            _check_finite("threshold", threshold.clamp(-1, 1))
        self.register_buffer("threshold", threshold)
        self._normalises = type(normalisation or Normalisation())
        for field in dataclasses.fields(self._normalises):
            value = torch.as_tensor(getattr(normalisation, field.name), **like)
            self.register_buffer(f"normalisation_{field.name}", value)
        self.chunk: int | None = None
        self.transcodes = transcoder
        given |= {"d_out": dim} if transcoder else {}
        self.cfg = types.SimpleNamespace(
            architecture=architecture,
            d_in=read,
            d_sae=width,
            dtype="float32",
            device="cpu",
            apply_b_dec_to_input=not transcoder,
            normalize_activations=self._normalises.saelens,
            reshape_activations="hook_z" if heads else "none",
            **given,
            metadata=dict(metadata or {}),
        )

    @classmethod
    def from_folder(
        cls, path: str | os.PathLike[str], sae_id: str | None = None, *, k: int | None = None
    ) -> "SAE":
        """The SAE in a folder, with its saved encoder.

        It reads whatever `sae_gap.load_sae` reads, and the output of `learn(...).save`, a
        dictionary whose codes are a pursuit at the L0 that it was learned for.

        Args:
          path: the folder, or a release in the local cache of the Hugging Face hub.
          sae_id: which SAE of a release; None for a path.
          k: k of a pursuit that replaces the encoder; None keeps the encoder.

        Raises:
          ValueError: there is no SAE that can be read, or PyTorch has no encoder like its own here.
        """
        return cls(**folders.read(path, sae_id, k))

    def pursuit(self, k: int | None = None, *, breadth: int = 2, screens: int = 2) -> "SAE":
        """An SAE with the same parameters, coded by a screened pursuit. By default k is its own k,
        if it has one; a pursuit with that k keeps its threshold. That of a transcoder codes its
        `signals(y, x)`.
        """
        pursued = getattr(self.cfg, "k", None)
        return type(self)(
            *(self.W_dec, self.b_dec, *((self.W_enc, self.b_enc) * (not self.transcodes))),
            k=pursued if k is None else k,
            breadth=breadth,
            screens=screens,
            threshold=self.threshold if self._pursues and k in (None, pursued) else None,
            normalisation=self._normalisation(self.W_dec),
            heads=self.cfg.reshape_activations == "hook_z",
            metadata=self.cfg.metadata,
        )

    def signals(
        self, y: Float[Tensor, "... input_dim"], x: Float[Tensor, "... num_inputs"] | None = None
    ) -> Float[Tensor, "... input_dim"]:
        """`y - x W_skip`: what the codes of a transcoder and b_dec should add up to."""
        y = self._flat(y, explained=True)
        return y - self._skip(x, y) if self.transcodes else y

    def encode(self, x: Float[Tensor, "... num_inputs"]) -> Float[Tensor, "... num_latents"]:
        """The dense codes, NaN for a row that is not finite; only those of `abstopk` may be
        negative. Codes of a pursuit have gradients: their values follow x and the dictionary while
        the choice of atoms stays fixed.
        """
        x, chunk = self._flat(x), self.chunk
        whole = x.isfinite().all(-1, keepdim=True)
        clean = x.where(whole, 0)
        if self._pursues:
            (target,) = by_rows(lambda x: [self._target(x)], chunk, clean)
            codes = pursuit_codes(target, self.W_dec, chunk=chunk, **pursuit_options(self))
        else:
            if self.cfg.architecture == "batch_largest":
                chunk = max(1, whole.numel())
            (codes,) = by_rows(lambda x: [self._encoder(x)], chunk, clean)
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
        check_tensor("codes", codes, ("...", self.cfg.d_sae), "give the SAE's own", self.W_dec)
        if self._normalises.per_sample and like is None:
            raise ValueError(
                f"this SAE normalises each row by itself ({self._normalises.name}); give like=x, "
                "the activations that the codes are of."
            )

        def of_rows(codes, *like):
            guess = codes @ self.W_dec.to(codes) + self.b_dec.to(codes)
            if self.transcodes:
                return [guess + self._skip(like[0] if like else None, guess)]
            return [self._normalisation(codes).undo(guess, *(like or (None,)))]

        pair = (codes,) if like is None else self._pairs(like, codes, explained=False)[::-1]
        return by_rows(of_rows, self.chunk, *pair)[0].to(codes.dtype)

    def forward(self, x: Float[Tensor, "... num_inputs"]) -> Float[Tensor, "... input_dim"]:
        """The reconstruction, from codes that are not rounded to the type of x."""
        wide = widened(self._flat(x), x)
        found = self.decode(self.encode(wide), wide)
        return (found if self.transcodes else found.reshape(x.shape)).to(x.dtype)

    def refit(
        self, x: Float[Tensor, "... input_dim"], codes: Float[Tensor, "... num_latents"]
    ) -> Float[Tensor, "... num_latents"]:
        """`argmin_z ‖y - z W_dec‖` on the support of the codes, with y the normalised x less b_dec;
        clamped at zero except for `abstopk`. The codes `own_refit` of the commands solve
        non-negative least squares instead, whose error is no larger.

        If several solutions are best, as with more atoms than dimensions, it takes the one with the
        least norm on unit atoms. Gradients reach x and the dictionary.
        """
        pair = self._pairs(x, codes)
        atoms, lengths = unit_atoms(widened(self.W_dec, x))

        def of_rows(x, codes):
            whole = (x.sum(1) + codes.sum(1)).isfinite()[:, None]
            codes = codes.where(whole, 0)
            given = self._target(x), atoms, codes, *supports(codes)
            found = least_squares(*given, anew=True)
            found = found / lengths
            if self.cfg.architecture != "abstopk":
                found = found.clamp(min=0)
            return [found.where(whole, math.nan)]

        return by_rows(of_rows, self.chunk, *pair)[0].to(x.dtype)

    @torch.no_grad()
    def certify(
        self, x: Float[Tensor, "... input_dim"], codes: Float[Tensor, "... num_latents"], lam: float
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Lasso objective and duality gap of some codes: no codes z ≥ 0 have an objective below the
        first minus the second.

        The lasso is `½‖y - D z‖² + λ‖z‖₁` on unit atoms D, as everywhere in the suite, with y the
        normalised x less b_dec. With `r` the residual, s the largest number up to 1 with
        `s d_jᵀ r ≤ λ` and `t = s r`,

          gap = ½‖r - t‖² + Σ_j z_j (λ - d_jᵀ t).

        Args:
          x: (..., input_dim).
          codes: non-negative codes from any encoder, in units of W_dec, (..., num_latents).
          lam: λ.

        Returns:
          Objectives and gaps, one for each row, in float32 at least.

        Raises:
          ValueError: a code or λ is negative, or the numbers of codes and activations differ.
        """
        check_scalar("lam", lam)

        def of_rows(x, codes):
            if (codes < 0).any():
                raise ValueError("codes must be non-negative, as the lasso's are; give others.")
            atoms, lengths = unit_atoms(self.W_dec.to(x))
            codes = codes * lengths
            rest = self._target(x) - codes @ atoms
            pull = rest @ atoms.mT
            return value_and_gap(rest, codes, pull, lam, dual_scale(pull, lam, nonneg=True))

        objective, gap = by_rows(of_rows, self.chunk, *self._pairs(x, codes))
        return objective, gap

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "... input_dim"]) -> "SAE":
        """Prunes the pursuit: of 2 k atoms it keeps those whose absence would add most to the
        squared error, k on average over the rows of x.

        Args:
          x: rows, of which those of zeros, such as padding, do not count. Give rows that the
            dictionary was not trained on: others than its training rows would have more than k.

        Returns:
          The same module, with its threshold set.

        Raises:
          ValueError: the SAE is no pursuit, or x is not finite or all zeros but for one row.
        """
        if not self._pursues:
            raise ValueError("only a pursuit is pruned; call sae.pursuit(k).calibrate(x).")
        x = self._flat(x).reshape(-1, self.cfg.d_in)
        _check_finite("x", x)
        x = x[counted(x)]
        cfg, weights = self.cfg, widened(self.W_dec, x)
        atoms, _ = unit_atoms(weights)

        sizes = screen_sizes(2 * cfg.k, cfg.breadth, cfg.screens, *atoms.shape[::-1])

        def of_rows(x):
            return pursue(self._target(x), atoms, *sizes)[2:]

        (gains,) = by_rows(of_rows, self.chunk or MANY_ROWS, x)
        least = least_gain(gains, cfg.k)
        self.threshold = (least.sqrt() / mean_length(weights)).to(self.W_dec)
        self.cfg.pruned = True
        return self

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `sae_weights.safetensors` and `cfg.json` in the form of SAELens 6, which
        `from_folder`, `sae_gap.load_sae` and, after `import sae_gap.torch.saelens`, SAELens read.
        The folder must not have files yet.
        """
        folders.write(folder, self.cfg, self.state_dict(), self._normalises)

    @property
    def _pursues(self) -> bool:
        return self.cfg.architecture == PURSUIT

    def _normalisation(self, like):
        """The normalisation of activations, in the type of some rows."""
        names = (field.name for field in dataclasses.fields(self._normalises))
        return self._normalises(
            *(getattr(self, f"normalisation_{name}").to(like) for name in names)
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
        architecture, k = self.cfg.architecture, getattr(self.cfg, "k", 0)
        target = x if self.transcodes else self._target(x)
        if architecture == "matching_pursuit":
            options = (getattr(self.cfg, name) for name in ARCHITECTURES[architecture].options)
            return _match_again(target, self.W_dec.to(x), *options)
        pull = target @ self.W_enc.to(x)
        hidden = pull + self.b_enc.to(x)
        if architecture == "gated":
            shrunk = pull * self.r_mag.to(x).exp() + self.b_mag.to(x)
            return shrunk.relu() * (hidden > 0)
        if architecture == "abstopk":
            return hidden * (_largest(hidden.abs(), k) > 0)
        if architecture == "jumprelu":
            hidden = hidden * ~(hidden <= self.threshold)
        elif architecture == "topk":
            hidden = _largest(hidden, k)
        elif architecture == "batch_largest":
            hidden = _largest(hidden.reshape(1, -1), k * len(hidden)).reshape(hidden.shape)
        elif architecture == "groupmax":
            groups = hidden.reshape(len(hidden) * k, hidden.shape[1] // k)
            hidden = _largest(groups, 1).reshape(hidden.shape)
        return hidden.relu()

    def _flat(self, x, *, explained=False):
        """Activations with their heads side by side: those to encode, or those to explain."""
        dim = self.W_dec.shape[1] if explained else self.cfg.d_in
        mend = "give activations of the layer that the SAE was trained on"
        heads = self.cfg.reshape_activations == "hook_z"
        if heads and isinstance(x, Tensor) and x.ndim > 1 and x.shape[-1] != dim:
            x = x.flatten(-2)
        check_tensor("x", x, ("...", dim), mend, self.W_dec)
        return x

    def _pairs(self, x, codes, *, explained=True):
        """Activations and codes of the same rows."""
        x = self._flat(x, explained=explained)
        shape = (*x.shape[:-1], self.cfg.d_sae)
        check_tensor("codes", codes, shape, "give a row for each of x", self.W_dec)
        return x, codes


def _check_finite(name, values):
    if not values.isfinite().all():
        raise ValueError(
            f"{name} must be finite, but has NaN or infinite entries, as float16 has beyond 65,504."
        )


def _largest(values, k):
    """The rows with all but the k largest entries set to zero."""
    if k >= values.shape[1]:
        return values
    largest = values.topk(k, dim=1)
    return torch.zeros_like(values).scatter(1, largest.indices, largest.values)


def _match_again(target, atoms, rounds, residual, stop_on_repeat):
    """The codes of `sae_gap.saes.foreign_encoders.RepeatingPursuit`."""
    codes, rest = target.new_zeros(len(target), len(atoms)), target
    done = codes[:, :1] > 0
    for _ in range(rounds):
        value, best = (rest @ atoms.mT).max(1, keepdim=True)
        value, before = value.relu().masked_fill(done, 0), codes.gather(1, best)
        codes, rest = codes.scatter_add(1, best, value), rest - value * atoms[best[:, 0]]
        # A round adds the chosen atom to the support or changes nothing.
        again = (before != 0) == (before + value != 0)
        done = done | again & stop_on_repeat | (rest.norm(dim=1, keepdim=True) < residual)
        if done.all():
            break
    return codes

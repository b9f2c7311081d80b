"""An SAE: a model in the units of its library, with its own encode and decode, for which a gap can
be certified.

`sae_gap.load_sae` reads a published SAE, `SAE.from_arrays` makes one from arrays, and
`SAE.of_model` from a model of this suite or a bare decoder.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from scipy.sparse import issparse, sparray

from sae_gap.core import matching
from sae_gap.core.checks import (
    as_real,
    check_choice,
    check_flag,
    check_integer,
    check_vanishing,
    detached,
    shown,
)
from sae_gap.core.normalise import Normalisation
from sae_gap.core.types import Model, Transcoder
from sae_gap.encoders.encoder import (
    AmortisedEncoder,
    Encoder,
    as_floats,
    check_model,
    unit_atoms,
)
from sae_gap.learners.given import Given, Held
from sae_gap.saes.architectures import ARCHITECTURES, take
from sae_gap.saes.exchange import imported
from sae_gap.saes.parts import Parts, side_by_side
from sae_gap.storage.tensor_files import Tensors, printable

# The further arguments of `SAE.from_arrays`, by architecture; at least one is needed.
_OPTIONS = {
    "relu": (),
    "topk": ("k",),
    "batchtopk": ("threshold", "k"),
    "jumprelu": ("threshold",),
}
# Atoms are unit atoms if their lengths differ from 1 by no more.
UNIT = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class SAE:
    """A model in the units of its library, with the notes of its files.

    `sae_gap.amortisation_gap(sae.model, sae.model.signals(activations), lam)` is the gap of its
    encoder on its own dictionary. Measurements take codes on unit atoms: the library's codes times
    `lengths`. A transcoder's encoder reads `inputs` x, and its codes explain other activations y.

    Attributes:
      model: the dictionary as on disk, the decoder's bias, the encoder, and the normalisation of
        activations.
      library: the library that wrote it.
      architecture: that library's name for it.
      centred: whether the encoder subtracts the decoder's bias from its input.
      heads: whether activations may come as (n, heads, head_dim), to be laid side by side, or as
        the (n, layers, dim) of a crosscoder.
      notes: notes on the file for a report: its types, its flags, its hook point.
      name: its name in rows and figures.
      signed: whether codes may be negative, so that the optimum is over signed codes too.
    """

    model: Model
    library: str = "sae_gap"
    architecture: str = ""
    centred: bool = False
    heads: bool = False
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    name: str = "sae"
    signed: bool = False

    @classmethod
    def of_model(cls, model: Model, *, name: str = "sae") -> "SAE":
        """An SAE of a model, with atoms of any length.

        Args:
          model: a model with a dictionary; without an `encode` it is a bare decoder.
          name: name of the SAE.

        Raises:
          ValueError: the model has no dictionary, or a part of it does not fit or is not finite.
        """
        check_model(model)
        dictionary = as_floats("the dictionary", model.decoder)
        bias = as_floats("bias", model.bias)
        return described(dataclasses.replace(model, dictionary=dictionary, bias=bias), name=name)

    @classmethod
    def from_arrays(
        cls,
        W_enc: Float[ArrayLike, "num_inputs num_latents"],  # noqa: N803
        b_enc: Float[ArrayLike, " num_latents"],
        W_dec: Float[ArrayLike, "num_latents input_dim"],  # noqa: N803
        b_dec: Float[ArrayLike, " input_dim"],
        *,
        architecture: str,
        k: int | None = None,
        threshold: Float[ArrayLike, " num_latents"] | float | None = None,
        centred: bool = True,
        linear: bool | None = None,
        name: str = "sae",
        transcoder: bool = False,
        W_skip: Float[ArrayLike, "num_inputs input_dim"] | None = None,  # noqa: N803
    ) -> "SAE":
        """An SAE from arrays of NumPy, JAX or PyTorch, also in bfloat16.

        For activations x the encoder computes `p = (x - b_dec) W_enc + b_enc`, and the decoder
        `z W_dec + b_dec` from the codes z. By architecture these are

            relu        relu(p)
            topk        the k largest relu(p) of a row
            batchtopk   relu(p) above the threshold; with only k, the k · n largest of n rows
            jumprelu    relu(p) above each latent's threshold

        A transcoder computes `p = x W_enc + b_enc` from inputs x, and explains activations
        y by `z W_dec + b_dec + x W_skip`.

        Args:
          W_enc: (input_dim, num_latents), or transposed, as `torch.nn.Linear` keeps its weight; the
            lengths of the biases decide.
          b_enc: (num_latents,).
          W_dec: (num_latents, input_dim), or transposed.
          b_dec: (input_dim,), in units of the activations.
          architecture: one of relu, topk, batchtopk and jumprelu.
          k: latents that are on in each row, or on average.
          threshold: a number, or one for each latent, in units of p.
          centred: whether the encoder subtracts b_dec from x; False has `p = x W_enc + b_enc`.
          linear: whether matrices are those of `torch.nn.Linear`; used only for square ones, so
            that no shape decides. None takes False, and the SAE's notes say so.
          name: name of the SAE.
          transcoder: whether it is a transcoder, whose W_enc is (num_inputs, num_latents).
          W_skip: the affine skip of a transcoder, (num_inputs, input_dim), or transposed.

        Raises:
          ValueError: the arrays do not fit each other or are not finite, or k or the threshold is
            missing or does not belong to the architecture.
        """
        check_choice("architecture", architecture, _OPTIONS)
        options = {"k": k, "threshold": threshold}
        given = {option for option, value in options.items() if value is not None}
        takes = _OPTIONS[architecture]
        if given - {*takes} or (takes and not given):
            told = f"{' or '.join(takes) or 'neither k nor threshold'}, but it is given"
            raise ValueError(
                f"{architecture} takes {told} {' and '.join(sorted(given)) or 'none'}."
            )
        arrays = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
        arrays |= {} if threshold is None else {"threshold": threshold}
        arrays |= {} if W_skip is None else {"W_skip": W_skip}
        held = {word: as_real(word, value, "an array of floats") for word, value in arrays.items()}
        for word in ("b_enc", "b_dec"):
            if held[word].ndim != 1 or not held[word].size:
                raise ValueError(
                    f"{word} must be a vector with entries, but it is {shown(held[word])}."
                )
        num_latents, input_dim = held["b_enc"].size, held["b_dec"].size
        check_flag("centred", centred)
        check_flag("transcoder", transcoder)
        if W_skip is not None and not transcoder:
            raise ValueError("an SAE has no W_skip; give transcoder=True, or leave it out.")
        num_inputs = held["W_enc"].size // num_latents if transcoder else input_dim
        if linear is not None:
            check_flag("linear", linear)
        if k is not None:
            check_integer("k", k, least=1, most=num_latents)
        square = []
        for word, shape in (
            ("W_enc", (num_latents, num_inputs)),
            ("W_dec", (input_dim, num_latents)),
            ("W_skip", (input_dim, num_inputs)),
        ):
            if word in held:
                alike = shape[0] == shape[1]
                square += [word] * alike
                if linear if alike else held[word].shape == shape:
                    held[word] = held[word].T
        if threshold is not None:
            encoder = "jumprelu"
            if held["threshold"].size == 1:
                held["threshold"] = np.resize(held["threshold"], num_latents)
        elif k is not None:
            encoder = "topk" if architecture == "topk" else "batch_largest"
        else:
            encoder = "standard"
        tensors = Tensors(Path("the arrays"), held)
        notes = {"dtype given": tensors.dtypes()} | ({} if k is None else {"k": str(k)})
        if square and linear is None:
            products = {"W_enc": "x @ W_enc", "W_dec": "z @ W_dec", "W_skip": "x @ W_skip"}
            notes["square matrices"] = (
                f"taken as {' and '.join(products[word] for word in square)}; linear=True takes "
                "torch.nn.Linear's"
            )
        parts = Parts(
            encoder,
            {name: k for name in ARCHITECTURES[encoder].options},
            take(
                encoder,
                tensors,
                num_latents,
                input_dim,
                num_inputs=num_inputs,
                skip=W_skip is not None,
            ),
            library="given",
            architecture=architecture,
            notes=notes,
            centred=centred,
            transcodes=transcoder,
        )
        return dataclasses.replace(of_parts(parts), name=name)

    @property
    def decoder_alone(self) -> "SAE":
        """The same dictionary and normalisation without an encoder."""
        model = dataclasses.replace(self.model, encoder=None, encode=None)
        return dataclasses.replace(self, model=model, signed=False)

    @property
    def bias(self) -> Float[Array, " input_dim"]:
        """The decoder's bias, in units of the normalised activations."""
        return self.model.bias

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of activations before they are encoded."""
        return self.model.normalisation or Normalisation()

    @functools.cached_property
    def lengths(self) -> Float[Array, " num_latents"]:
        """Lengths of the atoms on disk; zero for a dead atom. Codes in the library's units times
        these are codes on unit atoms.
        """
        atoms = self.model.decoder
        # One program, since each compiles for a tenth of a second.
        return jax.jit(lambda d: jnp.where(jnp.any(d != 0, axis=0), unit_atoms(d)[1], 0))(atoms)

    @functools.cached_property
    def unit_dictionary(self) -> Float[Array, "input_dim num_latents"]:
        """The atoms at unit length; zeros for a dead atom."""
        atoms = self.model.decoder
        lengths = np.asarray(self.lengths)
        # Do not hold a wide dictionary twice.
        whole = np.abs(np.where(lengths > 0, lengths, 1) - 1).max() <= UNIT
        return atoms if whole else jax.jit(unit_atoms)(atoms)[0]

    @functools.cached_property
    def given(self) -> Given:
        """A learner for studies that returns this model."""
        kind = "dictionary" if self.model.encode is None else "sae"
        return Given(Held(self.model), self.name, kind, self.signed)

    @property
    def input_dim(self) -> int:
        """Dimension of the activations that the codes explain."""
        return self.model.decoder.shape[0]

    @property
    def num_inputs(self) -> int:
        """Dimension of what the encoder reads."""
        return self.model.num_inputs

    @property
    def transcodes(self) -> bool:
        """True for a transcoder."""
        return isinstance(self.model, Transcoder)

    @property
    def num_latents(self) -> int:
        """Number of latents."""
        return self.model.decoder.shape[1]

    def target(
        self,
        activations: Float[ArrayLike, "..."],
        inputs: Float[ArrayLike, "n num_inputs"] | None = None,
    ) -> Float[Array, "n input_dim"]:
        """The target of the codes: the normalised activations less the decoder's bias, and less a
        transcoder's skip.

        Args:
          activations: as the library's `encode` takes them, (n, input_dim), or (n, heads, head_dim)
            if the SAE has `heads`; for a transcoder those that it explains.
          inputs: what a transcoder with a skip reads.

        Returns:
          (n, input_dim).

        Raises:
          ValueError: the activations have another width, or are not finite.
        """
        with jax.default_matmul_precision("highest"):
            rows = self.as_rows(activations, explained=True)
            return self.model.signals(rows, self._read(inputs, len(rows))) - self.bias

    def encode(self, activations: Float[ArrayLike, "..."]) -> Float[Array, "n num_latents"]:
        """The library's codes, in its own units.

        Args:
          activations: (n, input_dim), or (n, heads, head_dim) if the SAE has `heads`; a
            transcoder's inputs, (n, num_inputs).

        Returns:
          (n, num_latents).

        Raises:
          ValueError: the activations have another width, or are not finite.
        """
        with jax.default_matmul_precision("highest"):
            rows = self.as_rows(activations)
            return self.encode_signals(rows if self.transcodes else self.model.signals(rows))

    def encode_target(self, target: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
        """The codes of `target(activations)`, on unit atoms; zero for atoms of zeros."""
        if self.transcodes:
            raise ValueError("a transcoder's encoder reads no target; call encode with its inputs.")
        return self.encode_signals(target + self.bias) * self.lengths

    def encode_signals(
        self, signals: Float[ArrayLike, "n input_dim"]
    ) -> Float[Array, "n num_latents"]:
        """The library's codes of normalised activations, or of a transcoder's inputs."""
        if self.model.encode is None:
            raise ValueError(f"{self.name} is a decoder alone; give a model with an encoder.")
        return own_codes(self.model, jnp.asarray(signals))

    def decode(
        self,
        codes: Float[ArrayLike, "..."] | sparray,
        like: Float[ArrayLike, "..."] | None = None,
    ) -> Float[Array, "n input_dim"]:
        """The library's reconstruction from its codes.

        Args:
          codes: in the library's units, dense or sparse, (n, num_latents).
          like: the activations that were coded; needed only for an SAE that normalises each
            sample by itself, and for a transcoder with a skip.

        Returns:
          (n, input_dim), in the units of activations.

        Raises:
          ValueError: the codes have another width or are not finite, or `like` is needed and
            missing.
        """
        given: Any = codes
        codes = matching.as_matrix("codes", given.toarray() if issparse(given) else given)
        if codes.shape[1] != self.num_latents:
            raise ValueError(
                f"codes have {codes.shape[1]} columns, but the SAE has {self.num_latents} latents."
            )
        if self.normalisation.per_sample and (like is None or len(like) != len(codes)):  # type: ignore[arg-type]
            fault = f"this SAE normalises each sample by itself ({self.normalisation.name})"
            raise ValueError(f"{fault}; give like=activations, one row for each of codes.")
        rows = self.as_rows(like) if self.normalisation.per_sample else None  # type: ignore[arg-type]
        read = self._read(like, len(codes))
        with jax.default_matmul_precision("highest"):
            return self.model.reconstruct(jnp.asarray(codes), rows, read)

    def reconstruct(self, activations: Float[ArrayLike, "..."]) -> Float[Array, "n input_dim"]:
        """`decode(encode(activations))`.

        Args:
          activations: as `encode` takes them.

        Returns:
          (n, input_dim).

        Raises:
          ValueError: the activations have another width, or are not finite.
        """
        return self.decode(self.encode(activations), activations)

    def flat(self, activations: Any) -> Any:
        """Activations as they are, or by heads or layers, (n, layers, dim), side by side.

        Raises:
          ValueError: the layers of a crosscoder do not stand there.
        """
        if self.heads and getattr(activations, "ndim", 0) == 3:
            return side_by_side(activations, self.notes)
        return activations

    def as_rows(
        self, activations: Float[ArrayLike, "..."], *, explained: bool = False
    ) -> Float[Array, "n dim"]:
        """The checked activations for `encode`, heads side by side; those for `target` if
        `explained`.
        """
        # `asanyarray` keeps masks, so that the check refuses them.
        array = self.flat(np.asanyarray(detached(activations)))
        name = "targets" if self.transcodes and explained else "activations"
        word = "num_inputs" if self.transcodes and not explained else "input_dim"
        array = matching.as_matrix(name, array)
        if array.shape[1] != getattr(self, word):
            raise ValueError(
                f"{name} have {array.shape[1]} columns, but the "
                f"{'transcoder' if self.transcodes else 'SAE'} has {word} {getattr(self, word)}; "
                "give those of the layer that it was trained on."
            )
        return as_floats(name, array)

    def _read(self, inputs: Any, count: int) -> Any:
        """What the skip of a transcoder reads of so many rows; None where there is no skip."""
        if getattr(self.model, "skip", None) is None:
            return None
        if inputs is None or len(inputs) != count:
            raise ValueError(
                "this transcoder adds a skip of its inputs; give what it read, one row for each of "
                f"the {count}."
            )
        return self.as_rows(inputs)


def own_codes(model: Model, signals: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
    """The codes of a model's own encoder, or function, in the model's units."""
    encode: Any = model.encode
    with jax.default_matmul_precision("highest"):
        if isinstance(encode, Encoder):
            return encode.infer(model, signals).codes
        return encode(model, signals)


def of_parts(parts: Parts) -> SAE:
    """The SAE from the parts of a file.

    Raises:
      ValueError: a bias overflows on the target, or an atom is too small to be told from zero.
    """
    largest = np.abs(parts.atoms).max(axis=1)
    check_vanishing(f"the {parts.library} SAE", largest, parts.atoms.dtype)
    settled = parts.settled(jax.dtypes.canonicalize_dtype(parts.atoms.dtype))
    held = {name: jnp.asarray(value) for name, value in settled.items()}
    dictionary, bias = held.pop("W_dec").T, held.pop("b_dec")
    if parts.encoder is None:
        model = Model(dictionary, bias)
    else:
        kind, same = parts.normalisation, type(parts.normalisation) is Normalisation
        skip = held.pop("W_skip", None)
        encoder, parameters = imported(parts.encoder, parts.options, held)
        model = Model(dictionary, bias, parameters, encoder, None if same else kind)
        if parts.transcodes:
            centre = jnp.zeros(len(held["W_enc"]), bias.dtype)
            model = Transcoder(dictionary, bias, parameters, encoder, centre=centre, skip=skip)
    about = {name: getattr(parts, name) for name in ("library", "architecture", "centred", "heads")}
    return described(model, parts.notes, **about)


def described(model: Model, notes: Mapping[str, Any] | None = None, **about: Any) -> SAE:
    """The SAE of a model known to be complete; `about` are further attributes."""
    told: dict[str, Any] = {
        "notes": {name: printable(str(value)) for name, value in (notes or {}).items()},
        "architecture": getattr(model.encode, "name", ""),
        "centred": isinstance(model.encode, AmortisedEncoder),
        "signed": bool(getattr(model.encode, "signed", False)),
    } | about
    told["centred"] = told["centred"] and not isinstance(model, Transcoder)
    return SAE(model, **told)

"""An SAE: its own encode and decode, and beside them the suite's model of it, on which a gap can be
certified.

A published SAE comes from `sae_gap.load_sae`, arrays at hand from `SAE.from_arrays`, and a model of
this suite or a decoder alone from `SAE.of_model`.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
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
from sae_gap.core.identity import describe
from sae_gap.core.normalise import Normalisation
from sae_gap.core.pursuit import PURSUIT
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import (
    Affine,
    AmortisedEncoder,
    Encoder,
    as_floats,
    check_model,
    encode,
    unit_atoms,
)
from sae_gap.encoders.gated import Gated
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.screened_pursuit import BatchPursuit, ScreenedPursuit, Threshold
from sae_gap.encoders.topk import TopK
from sae_gap.learners.given import Given, Held
from sae_gap.saes.foreign_encoders import (
    AbsTopK,
    BatchLargest,
    GroupMax,
    LibraryUnits,
    RepeatingPursuit,
    Rescaled,
    parameters_of,
)
from sae_gap.saes.parts import Parts
from sae_gap.storage.results import digest
from sae_gap.storage.tensor_files import Tensors, printable

# What `SAE.from_arrays` asks for beside the arrays, at least one of them, by architecture.
_OPTIONS = {
    "relu": (),
    "topk": ("k",),
    "batchtopk": ("threshold", "k"),
    "jumprelu": ("threshold",),
}
# By their names in `Parts`.
_ENCODERS: dict[str, Any] = {
    "standard": ReLU,
    "topk": TopK,
    "abstopk": AbsTopK,
    "jumprelu": JumpReLU,
    "gated": Gated,
    "groupmax": GroupMax,
    "batch_largest": BatchLargest,
    "matching_pursuit": RepeatingPursuit,
    PURSUIT: ScreenedPursuit,
}


class SAE(eqx.Module):
    """A dictionary and, unless it is a decoder alone, its encoder, with what is done to activations
    before.

    `sae_gap.amortisation_gap(sae.model, sae.target(activations), lam)` is the gap of its encoder on
    its own dictionary.

    Attributes:
      model: on unit atoms, with a bias of zeros and the SAE's encoder, which gives the library's
        codes rescaled to unit atoms. It fits `target(activations)`.
      bias: what the decoder adds, in units of the normalised activations, (input_dim,).
      scale: a code in the library's units, times this, is a code on unit atoms, (num_latents,).
      lengths: of the atoms on disk, (num_latents,); zero for a dead one.
      normalisation: what is done to activations before they are encoded.
      library: which wrote it.
      architecture: what that library calls it.
      centred: whether the encoder takes the decoder's bias from its input.
      heads: whether activations may come as (n, heads, head_dim), which are then laid side by side.
      name: what rows and figures call it.
      role: "sae", "dictionary" for a decoder alone, or "control".
      signed: whether codes may be negative, so that the optimum is over signed codes too.
    """

    model: Model
    bias: Float[Array, " input_dim"]
    scale: Float[Array, " num_latents"]
    lengths: Float[Array, " num_latents"]
    normalisation: Normalisation
    library: str = eqx.field(static=True)
    architecture: str = eqx.field(static=True)
    centred: bool = eqx.field(static=True, default=False)
    heads: bool = eqx.field(static=True, default=False)
    # Pairs, since a mapping has no hash, and what is static must have one.
    entries: tuple[tuple[str, str], ...] = eqx.field(static=True, default=())
    name: str = eqx.field(static=True, default="sae")
    role: str = eqx.field(static=True, default="sae")
    signed: bool = eqx.field(static=True, default=False)

    @classmethod
    def of_model(cls, model: Model, *, name: str) -> "SAE":
        """A model of the suite, with atoms of any length, which fits `x - bias`.

        Args:
          model: with a dictionary; without an `encode` it is a decoder alone.
          name: what to call it.

        Raises:
          ValueError: the model has no dictionary, or a part of it does not fit or is not finite.
        """
        check_model(model)
        return _on_unit_atoms(
            as_floats("the dictionary", model.decoder),
            as_floats("bias", model.bias),
            model,
            None if model.encode is None else _rescaled,
            library="sae_gap",
            architecture=getattr(model.encode, "name", ""),
            name=name,
            role="dictionary" if model.encode is None else "sae",
            signed=bool(getattr(model.encode, "signed", False)),
        )

    @classmethod
    def from_arrays(
        cls,
        W_enc: Float[ArrayLike, "input_dim num_latents"],  # noqa: N803
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
    ) -> "SAE":
        """An SAE whose arrays are at hand: of NumPy, of JAX or of PyTorch, bfloat16 too.

        Of activations x the encoder computes `p = (x - b_dec) W_enc + b_enc`, and the decoder
        `z W_dec + b_dec` of the codes z. By architecture these are

            relu        relu(p)
            topk        the k largest relu(p) of a row
            batchtopk   relu(p) above the threshold; with a k alone, the k · n largest of n rows
            jumprelu    relu(p) above the threshold of each latent

        Args:
          W_enc: (input_dim, num_latents), or transposed, as `torch.nn.Linear` keeps its weight; the
            lengths of the biases tell which.
          b_enc: (num_latents,).
          W_dec: (num_latents, input_dim), or transposed.
          b_dec: (input_dim,), in units of the activations.
          architecture: one of relu, topk, batchtopk and jumprelu.
          k: latents that are on in each row, or on average.
          threshold: a number, or one for each latent, in units of p.
          centred: whether the encoder takes b_dec from x; False has `p = x W_enc + b_enc`.
          linear: whether both matrices are those of `torch.nn.Linear`; it is read only where there
            are as many latents as dimensions, so that no shape tells. None takes False, and the
            SAE's notes say so.
          name: what to call it.

        Raises:
          ValueError: the arrays do not fit each other or are not finite, or k or the threshold is
            missing or has no meaning for the architecture.
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
        held = {word: as_real(word, value, "an array of floats") for word, value in arrays.items()}
        for word in ("b_enc", "b_dec"):
            if held[word].ndim != 1:
                raise ValueError(f"{word} must be a vector, but it is {shown(held[word])}.")
        num_latents, input_dim = held["b_enc"].size, held["b_dec"].size
        check_flag("centred", centred)
        if linear is not None:
            check_flag("linear", linear)
        if k is not None:
            check_integer("k", k, least=1, most=num_latents)
        square = num_latents == input_dim
        for word, shape in (
            ("W_enc", (num_latents, input_dim)),
            ("W_dec", (input_dim, num_latents)),
        ):
            if linear if square else held[word].shape == shape:
                held[word] = held[word].T
        tensors = Tensors(Path("the arrays"), held)
        others: dict[str, Any] = {}
        if threshold is not None:
            one = held["threshold"].size == 1
            others["threshold"] = (
                tensors.scalar("threshold") if one else tensors.take("threshold", num_latents)
            )
            encoder = "jumprelu"
        elif k is not None:
            encoder = "topk" if architecture == "topk" else "batch_largest"
        else:
            encoder = "standard"
        notes = {"dtype given": tensors.dtypes()} | ({} if k is None else {"k": str(k)})
        if square and linear is None:
            notes["square matrices"] = (
                "taken as x @ W_enc and z @ W_dec; linear=True takes torch.nn.Linear's"
            )
        parts = Parts(
            encoder,
            {} if k is None or threshold is not None else {"k": k},
            atoms=tensors.take("W_dec", num_latents, input_dim),
            bias=tensors.take("b_dec", input_dim),
            weight=tensors.take("W_enc", input_dim, num_latents),
            encoder_bias=tensors.take("b_enc", num_latents),
            centred=centred,
            others=others,
            library="given",
            architecture=architecture,
            notes=notes,
        )
        return dataclasses.replace(of_parts(parts), name=name)

    @property
    def decoder_alone(self) -> "SAE":
        """The same dictionary and normalisation without an encoder."""
        sae = SAE.of_model(Model(self.model.decoder * self.scale, self.bias), name=self.name)
        kept = {name: getattr(self, name) for name in ("normalisation", "heads", "entries")}
        return dataclasses.replace(sae, **kept)

    @functools.cached_property
    def identity(self) -> str:
        """A digest of all its numbers, which tells what was measured of it from what was measured
        of others.
        """
        numbers = self.model, self.bias, self.scale, self.normalisation, self.signed
        # What is static, such as the k of an encoder, stands in the structure; an address in memory
        # says nothing.
        structure = f"{jax.tree.structure(numbers)} {describe(self.given_encoder)}"
        return digest([*jax.tree.leaves(numbers), re.sub(r" at 0x[0-9a-f]+", "", structure)])

    @property
    def given_encoder(self) -> Any:
        """The encoder or the function that the SAE was made with; None for a decoder alone."""
        return self.model.encoder.model.encode

    @property
    def given(self) -> Given:
        """A learner for studies, whose model is this one."""
        inner, kind = self.model.encoder.model, self.normalisation
        atoms = self.model.decoder * self.scale if inner.dictionary is None else inner.dictionary
        plain = Model(
            atoms,
            self.bias,
            inner.encoder,
            inner.encode,
            None if type(kind) is Normalisation else kind,
        )
        return Given(Held(plain), self.name, self.role, self.signed)

    @property
    def affine(self) -> Affine | None:
        """The map of the target whose largest outputs are the library's codes; None where no single
        one decides them.
        """
        encoder = self.given_encoder
        own = isinstance(encoder, AmortisedEncoder)
        return encoder.affine(self.model.encoder.model) if own else None

    @property
    def columns(self) -> dict[str, Any]:
        """The columns by which rows tell it."""
        sizes = {"num_latents": self.num_latents, "input_dim": self.input_dim}
        return {"dictionary": self.name, "role": self.role} | sizes

    @property
    def notes(self) -> dict[str, str]:
        """What a report shows of the file: its types, its flags, the hook point it was trained
        at.
        """
        return dict(self.entries)

    @property
    def input_dim(self) -> int:
        """Dimension of the activations."""
        return self.model.decoder.shape[0]

    @property
    def num_latents(self) -> int:
        """Number of latents."""
        return self.model.decoder.shape[1]

    def target(self, activations: Float[ArrayLike, "..."]) -> Float[Array, "n input_dim"]:
        """What the lasso on `model` fits: the normalised activations less what the decoder adds.

        Args:
          activations: as the library's `encode` takes them, (n, input_dim), or (n, heads, head_dim)
            where the SAE has `heads`.

        Returns:
          (n, input_dim).

        Raises:
          ValueError: the activations have another width, or are not finite.
        """
        with jax.default_matmul_precision("highest"):
            return self.normalisation.apply(self.as_rows(activations)) - self.bias

    def encode(self, activations: Float[ArrayLike, "..."]) -> Float[Array, "n num_latents"]:
        """The library's codes, in its own units.

        Args:
          activations: (n, input_dim), or (n, heads, head_dim) where the SAE has `heads`.

        Returns:
          (n, num_latents).

        Raises:
          ValueError: the activations have another width, or are not finite.
        """
        return self._encode(self.target(activations)) / self.scale

    def encode_target(self, target: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
        """The codes of `target(activations)`, on unit atoms. The code of an atom of zeros, which
        says nothing, is zero.
        """
        return jnp.where(self.lengths > 0, self._encode(target), 0)

    def _encode(self, target: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
        encoder: Any = self.model.encode
        if encoder is None:
            raise ValueError(f"{self.name} is a decoder alone; give a model with an encoder.")
        with jax.default_matmul_precision("highest"):
            return (
                encode(encoder, self.model, target)
                if isinstance(encoder, Encoder)
                else encoder(self.model, target)
            )

    def decode(
        self,
        codes: Float[ArrayLike, "..."] | sparray,
        like: Float[ArrayLike, "..."] | None = None,
    ) -> Float[Array, "n input_dim"]:
        """The library's reconstruction from its codes.

        Args:
          codes: in the library's units, dense or sparse, (n, num_latents).
          like: the activations that the codes are of; only an SAE that normalises each sample by
            itself asks for them.

        Returns:
          In the units of activations, (n, input_dim).

        Raises:
          ValueError: the codes have another width or are not finite, or `like` is wanted and not
            given.
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
        return self.decode_target(jnp.asarray(codes) * self.scale, like)

    def decode_target(
        self, codes: Any, like: Float[ArrayLike, "..."] | None = None
    ) -> Float[Array, "n input_dim"]:
        """What `decode` gives, of codes on unit atoms, (n, num_latents), dense or sparse."""
        activations = (
            self.as_rows(like) if self.normalisation.per_sample and like is not None else None
        )
        with jax.default_matmul_precision("highest"):
            sparse, atoms = issparse(codes), self.model.decoder.T
            product = jnp.asarray(codes @ np.asarray(atoms)) if sparse else codes @ atoms
            return self.normalisation.undo(product + self.bias, activations)

    def reconstruct(self, activations: Float[ArrayLike, "..."]) -> Float[Array, "n input_dim"]:
        """`decode(encode(activations))`.

        Args:
          activations: (n, input_dim), or (n, heads, head_dim) where the SAE has `heads`.

        Returns:
          (n, input_dim).

        Raises:
          ValueError: the activations have another width, or are not finite.
        """
        return self.decode(self.encode(activations), activations)

    def as_rows(self, activations: Float[ArrayLike, "..."]) -> Float[Array, "n input_dim"]:
        """The activations as `target` takes them, heads side by side, and checked as there."""
        # Masked entries must show.
        array = np.asanyarray(detached(activations))
        if self.heads and array.ndim == 3:
            array = array.reshape(len(array), -1)
        array = matching.as_matrix("activations", array)
        if array.shape[1] != self.input_dim:
            raise ValueError(
                f"activations have {array.shape[1]} columns, but the SAE has input_dim "
                f"{self.input_dim}; "
                "give those of the layer that it was trained on."
            )
        return as_floats("activations", array)


def _rescaled(unit: Model, target: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
    """The codes of a model that `of_model` was given, on unit atoms."""
    own = unit.encoder.model
    # An encoder of the suite subtracts the bias itself.
    signals = jnp.asarray(target) + own.bias
    codes = (
        own.encode.infer(own, signals).codes
        if isinstance(own.encode, Encoder)
        else own.encode(own, signals)
    )
    return codes * unit.encoder.scale


def of_parts(parts: Parts, mean: Any = None) -> SAE:
    """The SAE of what a file holds; `mean` is the bias of a decoder whose file has none.

    Raises:
      ValueError: a bias overflows on the target, or an atom is too small to be told from zero.
    """
    largest = np.abs(parts.atoms).max(axis=1)
    check_vanishing(f"the {parts.library} SAE", largest, parts.atoms.dtype)
    dictionary = jnp.asarray(parts.atoms).T
    if parts.encoder is None:
        bias = mean if parts.bias is None else parts.bias
        bias = np.zeros(len(dictionary)) if bias is None else detached(bias)
        sae = SAE.of_model(Model(dictionary, jnp.asarray(bias, dictionary.dtype)), name="sae")
        return dataclasses.replace(sae, entries=tuple(parts.notes.items()))
    settled = parts.settled(dictionary.dtype)
    held = {name: jnp.asarray(value, dictionary.dtype) for name, value in settled.others.items()}
    encoder, parameters = _ENCODERS[parts.encoder], None
    if settled.weight is not None:
        affine = Affine(jnp.asarray(settled.weight), jnp.asarray(settled.encoder_bias))
        parameters = parameters_of(encoder, affine, held)
    elif held:
        encoder, parameters = BatchPursuit, Threshold(held["threshold"])
    encoder = encoder(*parts.options.values())
    model = Model(jnp.asarray(settled.atoms).T, jnp.asarray(parts.bias), parameters, encoder)
    sae = on_unit_atoms(
        model,
        parts.notes,
        normalisation=parts.normalisation,
        library=parts.library,
        architecture=parts.architecture,
        centred=parts.centred,
        heads=parts.heads,
    )
    if parts.weight is not None:
        # Such an encoder does not read the atoms: a wide SAE need not hold them twice.
        sae = eqx.tree_at(lambda sae: sae.model.encoder.model.dictionary, sae, None)
    lengths = _unit(dictionary)[1] if parts.codes_of_unit_atoms else sae.lengths
    return dataclasses.replace(sae, lengths=lengths)


def on_unit_atoms(model: Model, notes: Mapping[str, str], **about: Any) -> SAE:
    """The SAE of a model in its library's units, which subtracts its bias and names its encoder;
    `about` are other fields.
    """
    encoder: Any = model.encode
    return _on_unit_atoms(
        model.decoder,
        model.bias,
        dataclasses.replace(model, bias=jnp.zeros_like(model.bias)),
        Rescaled(encoder),
        entries=tuple((str(name), printable(str(value))) for name, value in notes.items()),
        signed=encoder.signed,
        **about,
    )


def _on_unit_atoms(atoms: Array, bias: Array, inner: Model, encode: Any, **about: Any) -> SAE:
    unit, lengths = _unit(atoms)
    scale = jnp.where(lengths > 0, lengths, 1)
    model = Model(unit, jnp.zeros_like(bias), LibraryUnits(inner, scale), encode)
    return SAE(model, bias, scale, lengths, **{"normalisation": Normalisation(), **about})


@jax.jit
def _unit(
    atoms: Float[Array, "input_dim num_latents"],
) -> tuple[Array, Float[Array, " num_latents"]]:
    """The atoms at unit length, and their lengths, 0 for one of zeros."""
    unit, lengths = unit_atoms(atoms)
    return unit, jnp.where(jnp.any(unit != 0, axis=0), lengths, 0)

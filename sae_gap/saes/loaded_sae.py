"""An SAE: a model in the units of its library, with its own encode and decode, for which a gap can
be certified.

`sae_gap.load_sae` reads a published SAE, `SAE.from_arrays` makes one from arrays, and
`SAE.of_model` from a model of this suite or a bare decoder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import default_matmul_precision
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from scipy.sparse import issparse, sparray

from sae_gap.core import (
    AnyPath,
    Model,
    Normalisation,
    Transcoder,
    detached,
    matching,
    printable,
)
from sae_gap.encoders import (
    AmortisedEncoder,
    Encoder,
    as_floats,
    check_model,
    unit_atoms,
)
from sae_gap.learners import Given, Held
from sae_gap.saes.find import locate
from sae_gap.saes.given_arrays import of_arrays
from sae_gap.saes.models import model_of
from sae_gap.saes.parts import Parts, side_by_side
from sae_gap.saes.readers import read

Rows = Float[ArrayLike, "..."]
Outputs = Float[Array, "n input_dim"]
Codes = Float[Array, "n num_latents"]
# Atoms are unit atoms if their lengths differ from 1 by no more.
UNIT = 1e-6


@dataclass(frozen=True, eq=False)
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
    notes: Mapping[str, str] = field(default_factory=dict)
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
        encode = model.encode
        return cls(
            replace(model, dictionary=dictionary, bias=bias),
            name=name,
            centred=isinstance(encode, AmortisedEncoder)
            and not isinstance(model, Transcoder),
            signed=bool(getattr(encode, "signed", False)),
        )

    @classmethod
    def from_arrays(
        cls,
        W_enc: Float[ArrayLike, "num_inputs num_latents"],  # noqa: N803
        b_enc: Float[ArrayLike, " num_latents"],
        W_dec: Float[ArrayLike, "num_latents input_dim"],  # noqa: N803
        b_dec: Float[ArrayLike, " input_dim"],
        *,
        architecture: str,
        name: str = "sae",
        **options: Any,
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
          name: name of the SAE.
          **options: any of these.
            k: latents that are on in each row, or on average.
            threshold: a number, or one for each latent, in units of p.
            centred: whether the encoder subtracts b_dec from x, by default True; False has
              `p = x W_enc + b_enc`.
            linear: whether matrices are those of `torch.nn.Linear`; used only for square ones,
              where no shape decides. None takes False, and the SAE's notes say so.
            transcoder: whether it is a transcoder, whose W_enc is (num_inputs, num_latents).
            W_skip: the affine skip of a transcoder, (num_inputs, input_dim), or transposed.

        Raises:
          TypeError: there is no such option.
          ValueError: the arrays do not fit each other or are not finite, or k or the threshold is
            missing or does not belong to the architecture.
        """
        given = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
        return replace(of_parts(of_arrays(given, architecture, **options)), name=name)

    @property
    def decoder_alone(self) -> "SAE":
        """The same dictionary and normalisation without an encoder."""
        model = replace(self.model, encoder=None, encode=None)
        return replace(self, model=model, signed=False)

    @property
    def bias(self) -> Float[Array, " input_dim"]:
        """The decoder's bias, in units of the normalised activations."""
        return self.model.bias

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of activations before they are encoded."""
        return self.model.normalisation or Normalisation()

    @cached_property
    def lengths(self) -> Float[Array, " num_latents"]:
        """Lengths of the atoms on disk; zero for a dead atom. Codes in the library's units times
        these are codes on unit atoms.
        """
        return _lengths(self.model.decoder)

    @cached_property
    def unit_dictionary(self) -> Float[Array, "input_dim num_latents"]:
        """The atoms at unit length; zeros for a dead atom."""
        atoms = self.model.decoder
        lengths = np.asarray(self.lengths)
        # Do not hold a wide dictionary twice.
        if np.abs(np.where(lengths > 0, lengths, 1) - 1).max() <= UNIT:
            return atoms
        return jax.jit(unit_atoms)(atoms)[0]

    @cached_property
    def given(self) -> Given:
        """A learner for studies that returns this model."""
        family = "dictionary" if self.model.encode is None else "sae"
        return Given(Held(self.model), self.name, family, self.signed)

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
        activations: Rows,
        inputs: Float[ArrayLike, "n num_inputs"] | None = None,
    ) -> Outputs:
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
        with default_matmul_precision("highest"):
            rows = self.as_rows(activations, explained=True)
            read = self._inputs(inputs, len(rows)) if self.transcodes else None
            return self.model.signals(rows, read) - self.bias

    def encode(self, activations: Rows) -> Codes:
        """The library's codes, in its own units.

        Args:
          activations: (n, input_dim), or (n, heads, head_dim) if the SAE has `heads`; a
            transcoder's inputs, (n, num_inputs).

        Returns:
          (n, num_latents).

        Raises:
          ValueError: the activations have another width, or are not finite.
        """
        with default_matmul_precision("highest"):
            rows = self.as_rows(activations)
            if not self.transcodes:
                rows = self.model.signals(rows)
            return own_codes(self.model, rows)

    def decode(
        self,
        codes: Rows | sparray,
        like: Rows | None = None,
    ) -> Outputs:
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
        if issparse(codes):
            codes = codes.toarray()  # type: ignore[union-attr]
        codes = matching.as_matrix("codes", codes)
        if codes.shape[1] != self.num_latents:
            raise ValueError(
                f"codes have {codes.shape[1]} columns, but the SAE has {self.num_latents} latents."
            )
        read = self._inputs(like, len(codes))
        with default_matmul_precision("highest"):
            return self.model.reconstruct(jnp.asarray(codes), read, read)

    def reconstruct(self, activations: Rows) -> Outputs:
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
        self, activations: Rows, *, explained: bool = False
    ) -> Float[Array, "n dim"]:
        """The checked activations for `encode`, heads side by side; those for `target` if
        `explained`.
        """
        kind = "SAE"
        name = "activations"
        axis = "input_dim"
        if self.transcodes:
            kind = "transcoder"
            if explained:
                name = "targets"
            else:
                axis = "num_inputs"
        dim = getattr(self, axis)
        # `asanyarray` keeps masks, so that the check refuses them.
        array = self.flat(np.asanyarray(detached(activations)))
        array = matching.as_matrix(name, array)
        if array.shape[1] != dim:
            raise ValueError(
                f"{name} have {array.shape[1]} columns, but the {kind} has {axis} {dim}; give "
                "those of the layer that it was trained on."
            )
        return as_floats(name, array)

    def _inputs(self, like: Rows | None, count: int) -> Float[Array, "n dim"] | None:
        """What an SAE read of so many rows, if their codes alone do not decide its output."""
        if getattr(self.model, "skip", None) is not None:
            why = "adds a skip of its inputs"
        elif self.normalisation.per_sample:
            why = f"normalises each sample by itself ({self.normalisation.name})"
        else:
            return None
        if like is None or len(like) != count:  # type: ignore[arg-type]
            raise ValueError(
                f"this SAE {why}; give like=activations, what it read, one row for each of the "
                f"{count}."
            )
        return self.as_rows(like)


# One program, since each compiles for a tenth of a second.
@jax.jit
def _lengths(dictionary: Array) -> Array:
    used = jnp.any(dictionary != 0, axis=0)
    return jnp.where(used, unit_atoms(dictionary)[1], 0)


def own_codes(model: Model, signals: Float[ArrayLike, "n input_dim"]) -> Codes:
    """The codes of a model's encoder, or function, in the model's units, from normalised
    activations, or from a transcoder's inputs.

    Raises:
      ValueError: the model has no encoder.
    """
    encode: Any = model.encode
    if encode is None:
        raise ValueError(
            "a decoder alone gives no codes; give a model with an encoder."
        )
    with default_matmul_precision("highest"):
        if isinstance(encode, Encoder):
            return encode.infer(model, jnp.asarray(signals)).codes
        return encode(model, jnp.asarray(signals))


def load_sae(
    path: AnyPath,
    sae_id: str | None = None,
    *,
    mean: ArrayLike | Callable[[], ArrayLike] | None = None,
) -> SAE:
    """Opens a published SAE with its own encode and decode, or a bare decoder; executes nothing in
    its files.

    It reads SAELens (`sae_weights.safetensors`), dictionary_learning (`ae.pt`), sparsify
    (`sae.safetensors`) and Gemma Scope (`params.npz`, `params.safetensors`), their transcoders and
    those of circuit-tracer (`layer_0.safetensors`), acausal crosscoders, the output of `save_sae`,
    and the suite's own fits (`fit.safetensors` under results/models/). A bare decoder is the output
    of `learn(...).save` or `train_real`, one array of atoms, (input_dim, num_latents), in a .npy,
    .safetensors or .pt file.

    Args:
      path: the folder of one SAE or dictionary, or the file of its weights with its configuration
        beside it; `~` is your home. With `sae_id`, a release in the local cache of the Hugging Face
        hub, see `find.cached`.
      sae_id: which SAE of a release; None for a path.
      mean: the bias of a decoder whose file has none, (input_dim,), or a function that returns it;
        None takes zeros.

    Returns:
      The SAE; for a bare decoder `model.encode` is None.

    Raises:
      TypeError: `path` is not a path.
      ValueError: there is no SAE, there are several, or it cannot be read; the message names the
        fault and the mend.
    """
    parts = read(locate(path, sae_id))
    if "b_dec" not in parts.tensors:
        dim = parts.atoms.shape[1]
        bias: Any = mean() if callable(mean) else mean
        if bias is None:
            bias = np.zeros(dim)
        if np.shape(bias) != (dim,):
            raise ValueError(
                f"{path} must be of shape ({np.size(bias)}, num_latents), but it is "
                f"{parts.atoms.shape[::-1]}; give one of that layer, or its transpose."
            )
        parts = replace(parts, tensors={**parts.tensors, "b_dec": detached(bias)})
    return of_parts(parts)


def of_parts(parts: Parts) -> SAE:
    """The SAE from the parts of a file.

    Raises:
      ValueError: a bias overflows on the target, an atom is too small to be told from zero, or the
        encoder or its parameters do not fit.
    """
    return replace(
        SAE.of_model(model_of(parts)),
        library=parts.library,
        architecture=parts.architecture,
        centred=parts.centred and not parts.transcodes,
        heads=parts.heads,
        notes={name: printable(str(value)) for name, value in parts.notes.items()},
    )

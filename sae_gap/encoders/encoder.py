"""The base of encoders: a pure function `(model, signals) -> codes`, frozen hyper-parameters.

An encoder takes a batch rather than a sample: the lasso solvers work on batches (compaction,
chunks, certificates), and the amortised encoders are matrix products anyway.
"""

import abc
import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from equinox import Module, filter_eval_shape, filter_jit
from jax import lax, random, tree
from jax.numpy import where, zeros
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from sae_gap.core import (
    Coded,
    MethodPart,
    Model,
    Split,
    Task,
    Transcoder,
    as_real,
    check_type,
    check_vanishing,
    matching,
    shown,
)


class Affine(Module):
    """The linear half of an amortised encoder: `x ↦ x W + c`."""

    weight: Float[Array, "input_dim num_latents"]
    bias: Float[Array, " num_latents"]

    def __check_init__(self):
        weight, bias = map(np.shape, (self.weight, self.bias))
        if len(weight) != 2 or bias != weight[1:]:
            raise ValueError(
                "an affine map must have a weight (input_dim, num_latents) and a bias "
                "(num_latents,), but they are "
                f"{shown(self.weight)} and {shown(self.bias)}; give arrays, the weight of a "
                "PyTorch encoder transposed."
            )

    def __call__(
        self, signals: Float[Array, "n input_dim"]
    ) -> Float[Array, "n num_latents"]:
        return signals @ self.weight + self.bias

    @classmethod
    def create(cls, weight: Float[Array, "input_dim num_latents"]) -> "Affine":
        """The initial encoder of the paper: the given weights, no bias."""
        return cls(weight, zeros(weight.shape[1], weight.dtype))


class Encoder(MethodPart):
    """Infers codes from signals and a model.

    A subclass defines `__call__`. In a file of this folder it is found by its name, and it may
    define its look.
    """

    # Its least squares take the Gram matrix of so many atoms for each that remains in a code.
    fitted: ClassVar[int] = 0
    # True if its parts infer on another model, and are prepared for that one alone.
    elsewhere: ClassVar[bool] = False
    # True if it reads the input of a transcoder, rather than the activations to explain.
    reads_inputs: ClassVar[bool] = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = _of_rows(cls.__call__)  # type: ignore[method-assign]

    @property
    def coordinates(self) -> dict[str, str | int | float]:
        """The columns that tell its rows from those of other encoders."""
        return {"inference": self.name}

    @property
    def origin(self) -> "Encoder | None":
        """The encoder whose codes it starts from, if any."""
        return None

    @property
    def origins(self) -> tuple["Encoder", ...]:
        """`origin`, if any, to go through."""
        return () if self.origin is None else (self.origin,)

    @property
    def weight(self) -> float | None:
        """The l1 weight λ of the objective that its codes minimise, where the gap is measured; None
        takes the study's.
        """
        return None

    @property
    def signed(self) -> bool:
        """True if codes may be negative; they are then compared with the optimum over signed
        codes.
        """
        return not getattr(self, "nonneg", True)

    @abc.abstractmethod
    def __call__(
        self, model: Model, signals: Float[Array, "n input_dim"]
    ) -> Float[Array, "n num_latents"]:
        """Returns the codes of the signals, in units of the model's own atoms:
        `codes @ dictionary.T + bias` reconstructs.
        """

    def flops(self, input_dim: int, num_latents: int) -> int | None:
        """Returns the floating-point operations of matrix products for a sample; None if they
        differ between samples.

        Only `ScreenedPursuit` takes anything from a Gram matrix of all atoms. Products with k by k
        matrices do not count.
        """
        return None

    def prepared(self, model: Model, split: Split, task: Task) -> "Encoder":
        """Returns the encoder with all values that a requested mean L0 decides: a weight, a
        threshold, a number of atoms. It never writes into the model.

        Args:
          model: the model for inference, with its own encoder.
          split: the rows to find them on, as encoders see them; only rows that count are used.
          task: all data, and the network behind them if there is one.
        """
        parts = {
            name: part.prepared(model, split, task)
            for name, part in vars(self).items()
            if isinstance(part, Encoder)
        }
        return replace(self, **parts) if parts else self

    def infer(
        self,
        model: Model,
        signals: Float[Array, "n input_dim"],
        begun: Float[Array, "n num_latents"] | None = None,
    ) -> Coded:
        """Returns the codes, with a certificate if the encoder has one.

        Args:
          model: holds the dictionary and the parameters.
          signals: (n, input_dim).
          begun: the codes of `origin`, if known; an encoder without an origin ignores them.
        """
        return Coded(encode(self, model, signals))


def _of_rows(call):
    """Wraps an encoder so that it refuses signals that are no rows of the model's dimension."""

    @functools.wraps(call)
    def checked(self, model, signals):
        widths = () if model.dictionary is None else model.widths(self.reads_inputs)
        check_rows(signals, widths)
        return call(self, model, signals)

    return checked


def check_rows(signals: Any, widths: tuple[int, ...]) -> None:
    """Refuses signals that are no rows of one of these widths; () takes any."""
    shape = np.shape(signals)
    wanted = [*widths, "input_dim"][0]
    if len(shape) != 2 or (widths and shape[1] not in widths):
        raise ValueError(
            f"signals must have the shape (n, {wanted}), a row for each, but they are "
            f"{shown(signals)}; reshape them, or give those of the model's layer."
        )


class Inferring(Encoder):
    """An encoder that defines `infer`: outside of `jit`, other programs or the host may find its
    codes.
    """

    @abc.abstractmethod
    def infer(self, model, signals, begun=None):
        """Returns the codes; see `Encoder.infer`."""

    def __call__(self, model, signals):
        return self.infer(model, signals).codes


@filter_jit
def encode(
    encoder: Encoder, model: Model, signals: Float[Array, "n input_dim"]
) -> Float[Array, "n num_latents"]:
    """Returns `encoder(model, signals)`, compiled once for each encoder and shape."""
    return encoder(model, signals)


def above(
    gate: Float[Array, "n num_latents"],
    threshold: Float[Array, "..."] | float,
    values: Float[Array, "n num_latents"],
) -> Float[Array, "n num_latents"]:
    """Keeps the values whose gate is above a threshold, and sets the others to zero. If either is
    NaN the result is NaN: the comparison would fail, and the latent would seem to be off.
    """
    return where(gate > threshold, values, where(gate <= threshold, 0, jnp.nan))


def keep_nans(
    signals: Float[Array, "n input_dim"], codes: Float[Array, "n num_latents"]
) -> Float[Array, "n num_latents"]:
    """Sets rows whose signal is not finite to NaN, which a choice of atoms would lose."""
    return where(jnp.isfinite(signals).all(axis=1, keepdims=True), codes, jnp.nan)


class Recipe(NamedTuple):
    """The training of a sparse autoencoder with an encoder, and the look of its dictionary.

    Attributes:
      label: the dictionary's label; empty takes the encoder's, followed by SAE.
      colour: the dictionary's colour; empty takes the encoder's.
      rate: the tuned learning rate.
      penalty: the tuned penalty times input_dim, as the squared error is a mean over it.
      options: the tuned hyper-parameters of the encoder that differ from its defaults.
    """

    label: str = ""
    colour: str = ""
    rate: float = 1e-3
    penalty: float = 0.0
    options: Mapping[str, Any] = {}


class AmortisedEncoder(Encoder):
    """An encoder that a sparse autoencoder trains together with its dictionary."""

    # False for one that takes residuals of the signals: no transcoder has it.
    reads_inputs = True
    # None for encoders of given dictionaries. benchmarks/NOTES.md tells how the tuned
    # values were found.
    recipe: ClassVar[Recipe | None] = Recipe()
    # The tuned penalty grows with this power of the codes: 1 for an l1 norm, 2 for an l0 norm.
    penalty_power: ClassVar[int] = 1

    def parameters(
        self, weight: Float[Array, "input_dim num_latents"], key: PRNGKeyArray
    ) -> Any:
        """Returns the initial `Model.encoder`; training keeps its shapes.

        Store every linear map of signals or residuals as an `Affine`, and nothing else: after
        training on standardised signals, exactly these maps are rescaled.

        Args:
          weight: the encoder's initial weights, drawn with the dictionary or the dictionary itself.
          key: the key for all other random values.
        """
        return Affine.create(weight)

    def with_penalty(
        self, model: Model, signals: Float[Array, "n input_dim"]
    ) -> tuple[Float[Array, "n num_latents"], Float[Array, " n"]]:
        """Returns the codes and, for each sample, the sparsity penalty that training adds."""
        return self(model, signals), zeros(len(signals), signals.dtype)

    def loss(
        self,
        model: Model,
        signals: Float[Array, "n input_dim"],
        penalty: Float[ArrayLike, ""],
    ) -> tuple[Float[Array, " n"], Any]:
        """Returns the loss of each sample of a batch, and the batch's statistics for `observe`."""
        codes, sparsity = self.with_penalty(model, signals)
        return self.errors(model, signals, codes) + penalty * sparsity, None

    def loss_after(self, done, model, signals, penalty):
        """Returns `loss`, for an encoder whose loss changes during training: `done` is 0 at the
        first step and 1 at the last.
        """
        return self.loss(model, signals, penalty)

    def errors(
        self,
        model: Model,
        signals: Float[Array, "n input_dim"],
        codes: Float[Array, "n num_latents"],
    ) -> Float[Array, " n"]:
        """Returns the squared error of each sample, as training minimises it."""
        return jnp.mean(
            (codes @ model.decoder.T + model.bias - model.outputs(signals)) ** 2, axis=1
        )

    def flops(self, input_dim: int, num_latents: int) -> int | None:
        return 2 * input_dim * num_latents

    def calibrate(self, model: Model, signals: Float[Array, "n input_dim"]) -> Model:
        """Returns the model with parameters found from signals in one go. On a frozen dictionary
        this replaces the encoder's training.
        """
        return model

    def observe(self, model: Model, seen: Any) -> Model:
        """Returns the model after a training step, updated with its batch's statistics, which no
        gradient trains.
        """
        return model

    def raised(self, model: Model, change: Float[ArrayLike, ""]) -> Model:
        """Returns the model with its thresholds, if any, times exp(change): so training steers its
        L0.
        """
        return model

    def scaled(self, factor: float) -> "AmortisedEncoder":
        """Returns the encoder with initial thresholds for codes that are so many times larger."""
        return self

    def affine(self, model: Model) -> Affine | None:
        """Returns the map of `y - b` whose largest outputs are the codes; None if no single map
        decides them.
        """
        found = _map_of(model)
        return found if isinstance(found, Affine) else None

    def preactivations(
        self, model: Model, signals: Float[Array, "n input_dim"]
    ) -> Float[Array, "n num_latents"]:
        """Returns `(y - b) W + c`, or `x W + c` for the inputs x of a transcoder."""
        return _map_of(model)(model.read(signals))

    def rectified(
        self, model: Model, signals: Float[Array, "n input_dim"]
    ) -> Float[Array, "n num_latents"]:
        """Returns the pre-activations, with zeros for negative ones."""
        return jax.nn.relu(self.preactivations(model, signals))


def _map_of(model):
    return getattr(model.encoder, "affine", model.encoder)


def check_model(model: Model, encode: Any = None) -> None:
    """Refuses a model that cannot be measured because its dictionary, bias and encoder do not fit
    each other or are not finite.

    Args:
      model: a model with a dictionary.
      encode: the encoder, whose parameters must have their initial shapes; None takes
        `model.encode`.

    Raises:
      TypeError: it is no `Model`.
      ValueError: it has no dictionary, or a part of it does not fit; the message names the part and
        the mend.
    """
    check_type(
        "model", model, Model, "give sae_gap.Model(dictionary, bias, encoder, encode)"
    )
    check_type(
        "the dictionary",
        model.decoder,
        (np.ndarray, jax.Array),
        "give an array of NumPy or JAX",
    )
    atoms = matching.as_matrix("the dictionary", model.decoder)
    check_vanishing("the dictionary", np.abs(atoms).max(axis=0), zeros(()).dtype)
    shapes: Any = {"bias": atoms.shape[:1]}
    if isinstance(model, Transcoder):
        shapes["centre"] = (model.num_inputs,)
        if model.skip is not None:
            shapes["skip"] = model.num_inputs, len(atoms)
    for name, shape in shapes.items():
        if (value := as_floats(name, getattr(model, name))).shape != shape:
            raise ValueError(
                f"{name} must be of shape {shape}, but it is {shown(value)}; give zeros for none, "
                "transpose it, or give that of the same model."
            )
    for part in tree.leaves(
        model.encoder, is_leaf=lambda part: isinstance(part, Affine)
    ):
        if isinstance(part, Affine):
            tree.map(functools.partial(as_floats, "the encoder's affine map"), part)
    encode = model.encode if encode is None else encode
    if isinstance(encode, AmortisedEncoder):
        blank = jax.ShapeDtypeStruct(
            (model.num_inputs, atoms.shape[1]), zeros(()).dtype
        )
        initial = filter_eval_shape(encode.parameters, blank, random.key(0))
        if tree.structure(initial) == tree.structure(model.encoder):  # type: ignore[operator]
            tree.map_with_path(_check_shape, initial, model.encoder)
        elif initial is not None:
            raise ValueError(
                f"{type(encode).__name__} reads {type(initial).__name__} from Model.encoder, but "
                f"it is {shown(model.encoder)}; "
                "give the parameters that it was trained with."
            )


def _check_shape(path, initial, found):
    if np.shape(found) != initial.shape:
        raise ValueError(
            f"the encoder's {jax.tree_util.keystr(path)[1:]} must have the shape {initial.shape} "
            f"for this dictionary, but it has {np.shape(found)}; give that of this dictionary, and "
            "transpose the weight of a PyTorch encoder."
        )


def as_floats(name: str, values: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Returns finite real numbers in JAX's default float type."""
    array = as_real(name, values, "real numbers")
    with np.errstate(over="ignore"):
        array = array.astype(zeros(()).dtype)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite in {array.dtype}, but a number is NaN, infinite or too large; "
            "mend or scale it."
        )
    return jnp.asarray(array)


def on_unit_atoms(
    model: Model, signals: Float[Array, "n input_dim"]
) -> tuple[
    Float[Array, "n input_dim"],
    Float[Array, "input_dim num_latents"],
    Float[Array, " num_latents"],
]:
    """Returns the target, the atoms at unit length, and their former lengths."""
    return signals - model.bias, *jax.jit(unit_atoms)(model.decoder)


def unit_atoms(
    dictionary: Float[Array, "input_dim num_latents"],
) -> tuple[Float[Array, "input_dim num_latents"], Float[Array, " num_latents"]]:
    """Scales each atom to unit length and returns the lengths; a zero atom stays, with length 1.

    Codes for the given atoms, times the lengths, are codes for the scaled atoms.
    """
    # Squares of a tiny atom would vanish, and the root has no gradient at zero.
    largest = lax.stop_gradient(jnp.max(jnp.abs(dictionary), axis=0))
    # A NaN is not zero, and must remain visible.
    live = largest != 0
    largest = where(live, largest, 1)
    scaled = where(live, dictionary / largest, 0)
    lengths = jnp.sqrt(where(live, jnp.sum(scaled**2, axis=0), 1))
    return scaled / lengths, largest * lengths

"""What every encoder is: a pure function `(model, signals) -> codes` with frozen hyper-parameters.

An encoder takes a batch rather than a sample, since the lasso solvers work on batches (compaction,
chunks, certificates) and the amortised encoders are a matrix product anyway.
"""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from sae_gap.core import matching
from sae_gap.core.checks import as_real, check_type, check_vanishing, shown
from sae_gap.core.identity import MethodPart
from sae_gap.core.types import Coded, Model, Split, Task


class Affine(eqx.Module):
    """The linear half of an amortised encoder: `x ↦ x W + c`."""

    weight: Float[Array, "input_dim num_latents"]
    bias: Float[Array, " num_latents"]

    def __check_init__(self):
        weight, bias = (getattr(part, "shape", ()) for part in (self.weight, self.bias))
        if len(weight) != 2 or bias != weight[1:]:
            raise ValueError(
                "an affine map must have a weight (input_dim, num_latents) and a bias "
                "(num_latents,), but they are "
                f"{shown(self.weight)} and {shown(self.bias)}; give arrays, the weight of a "
                "PyTorch encoder transposed."
            )

    def __call__(self, signals: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
        return signals @ self.weight + self.bias

    @classmethod
    def create(cls, weight: Float[Array, "input_dim num_latents"]) -> "Affine":
        """The initial encoder of the paper: the given weights, no bias."""
        return cls(weight, jnp.zeros(weight.shape[1], weight.dtype))


class Encoder(MethodPart):
    """Infers codes from signals with what the model holds.

    A subclass defines `__call__`. In a file of this folder it is found by its name, and it may say
    how it is shown.
    """

    # Atoms of which its least squares take the Gram matrix, for each that is left in a code.
    fitted: ClassVar[int] = 0
    # Whether its parts infer on another model than it does, and are prepared for that one alone.
    elsewhere: ClassVar[bool] = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = _of_rows(cls.__call__)  # type: ignore[method-assign]

    @property
    def coordinates(self) -> dict[str, str | int | float]:
        """The columns that tell a row of this encoder from those of others."""
        return {"inference": self.name}

    @property
    def origin(self) -> "Encoder | None":
        """The encoder whose codes this one goes on from, if any."""
        return None

    @property
    def origins(self) -> tuple["Encoder", ...]:
        """The encoders whose codes `infer` takes, in this order: `origin`, if it is not several."""
        return () if self.origin is None else (self.origin,)

    @property
    def weight(self) -> float | None:
        """The weight λ of the l1 norm that its codes minimise, which the gap is then taken at; None
        takes the study's.
        """
        return None

    @property
    def signed(self) -> bool:
        """Whether codes may be negative, so that the optimum they are held against is over signed
        codes too.
        """
        return False

    @abc.abstractmethod
    def __call__(
        self, model: Model, signals: Float[Array, "n input_dim"]
    ) -> Float[Array, "n num_latents"]:
        """The codes of the signals, in units of the model's own atoms:
        `codes @ dictionary.T + bias` reconstructs.
        """

    def exported(self, model: Model) -> tuple[str, dict[str, Any], dict[str, Array]] | None:
        """How SAELens has this encoder: its architecture, options, and tensors but the decoder's;
        None if it has none.

        `save_sae` knows the suite's own, and asks the class itself: a subclass may infer in another
        way, and inherits no form.
        """
        return None

    def flops(self, input_dim: int, num_latents: int) -> int | None:
        """Floating-point operations for a sample, those of products with matrices; None where they
        differ between samples.

        Nothing is taken from a Gram matrix of all atoms, but by `ScreenedPursuit`, and k by k
        matrices do not count.
        """
        return None

    def prepared(self, model: Model, split: Split, task: Task) -> "Encoder":
        """The same encoder with whatever a requested mean L0 decides filled in: a weight, a
        threshold, a number of atoms. It never writes into the model.

        Args:
          model: on which it will infer, with its own encoder.
          split: the rows on which it is found, as encoders see them; those that count, count.
          task: all the data, and the network behind them where there is one.
        """
        parts = {
            field.name: part.prepared(model, split, task)
            for field in dataclasses.fields(self)
            if isinstance(part := getattr(self, field.name), Encoder)
        }
        return dataclasses.replace(self, **parts) if parts else self

    def infer(
        self,
        model: Model,
        signals: Float[Array, "n input_dim"],
        begun: Float[Array, "n num_latents"] | None = None,
    ) -> Coded:
        """The codes, with a certificate where the encoder has one.

        Args:
          model: whose dictionary and parameters to use.
          signals: (n, input_dim).
          begun: the codes of `origin`, where they are at hand; an encoder without one has no use
            for them.
        """
        return Coded(encode(self, model, signals))


def _of_rows(call):
    """An encoder that refuses signals which are no rows of the model's dimension."""

    @functools.wraps(call)
    def checked(self, model, signals):
        dims = None if model.dictionary is None else len(model.dictionary)
        shape = np.shape(signals)
        if len(shape) != 2 or dims not in (None, shape[1]):
            raise ValueError(
                f"signals must have the shape (n, {dims or 'input_dim'}), a row for each, but they "
                f"are {shown(signals)}; reshape them, or give those of the model's layer."
            )
        return call(self, model, signals)

    return checked


class Inferring(Encoder):
    """An encoder that defines `infer`: outside of `jit` its codes may be found by other programs,
    or on the host.
    """

    @abc.abstractmethod
    def infer(self, model, signals, begun=None):
        """The codes, as `Encoder.infer` has them."""

    def __call__(self, model, signals):
        return self.infer(model, signals).codes


@eqx.filter_jit
def encode(
    encoder: Encoder, model: Model, signals: Float[Array, "n input_dim"]
) -> Float[Array, "n num_latents"]:
    """`encoder(model, signals)`, compiled once for each encoder and shape."""
    return encoder(model, signals)


def above(
    gate: Float[Array, "n num_latents"],
    threshold: Float[Array, "..."] | float,
    values: Float[Array, "n num_latents"],
) -> Float[Array, "n num_latents"]:
    """The values whose gate is above a threshold, and zeros. A NaN of either is a NaN: no
    comparison holds of it, and it would pass for a latent that is off.
    """
    return jnp.where(gate > threshold, values, jnp.where(gate <= threshold, 0, jnp.nan))


def keep_nans(
    signals: Float[Array, "n input_dim"], codes: Float[Array, "n num_latents"]
) -> Float[Array, "n num_latents"]:
    """The codes, and NaN in each row whose signal is not finite, which a choice of atoms loses."""
    return jnp.where(jnp.isfinite(signals).all(axis=1, keepdims=True), codes, jnp.nan)


class Recipe(NamedTuple):
    """How a sparse autoencoder with an encoder is trained, and how its dictionary is shown.

    Attributes:
      label: of the dictionary; empty takes the encoder's, followed by SAE.
      colour: of the dictionary; empty takes the encoder's.
      rate: the tuned learning rate.
      penalty: the tuned penalty times input_dim, since the squared error is a mean over it.
      options: the tuned hyper-parameters of the encoder that are not its own defaults.
    """

    label: str = ""
    colour: str = ""
    rate: float = 1e-3
    penalty: float = 0.0
    options: Mapping[str, Any] = {}


class AmortisedEncoder(Encoder):
    """An encoder that a sparse autoencoder trains together with its dictionary."""

    # None where it is for dictionaries that are given. RESULTS.md tells how the tuned values were
    # found.
    recipe: ClassVar[Recipe | None] = Recipe()

    def parameters(self, weight: Float[Array, "input_dim num_latents"], key: PRNGKeyArray) -> Any:
        """The initial `Model.encoder`, whose shapes it keeps.

        What maps signals, or their residuals, is an `Affine`, and nothing else is: training on
        standardised signals takes their unit off these maps alone.

        Args:
          weight: the encoder's initial weights, drawn with the dictionary or the dictionary itself.
          key: to draw whatever else starts at random.
        """
        return Affine.create(weight)

    def with_penalty(
        self, model: Model, signals: Float[Array, "n input_dim"]
    ) -> tuple[Float[Array, "n num_latents"], Float[Array, " n"]]:
        """The codes and, for each sample, the sparsity penalty that training adds."""
        return self(model, signals), jnp.zeros(len(signals), signals.dtype)

    def loss(
        self, model: Model, signals: Float[Array, "n input_dim"], penalty: Float[ArrayLike, ""]
    ) -> tuple[Float[Array, " n"], Any]:
        """What training minimises for each sample of a batch, and what the batch is to leave behind
        by `observe`.
        """
        codes, sparsity = self.with_penalty(model, signals)
        return self.errors(model, signals, codes) + penalty * sparsity, None

    def loss_after(
        self,
        done: Float[ArrayLike, ""],
        model: Model,
        signals: Float[Array, "n input_dim"],
        penalty: Float[ArrayLike, ""],
    ) -> tuple[Float[Array, " n"], Any]:
        """`loss`, of an encoder whose loss changes along training: `done` is 0 at the first step
        and 1 at the last.
        """
        return self.loss(model, signals, penalty)

    def errors(
        self,
        model: Model,
        signals: Float[Array, "n input_dim"],
        codes: Float[Array, "n num_latents"],
    ) -> Float[Array, " n"]:
        """The squared error that training minimises, for each sample."""
        return jnp.mean((codes @ model.decoder.T + model.bias - signals) ** 2, axis=1)

    def flops(self, input_dim: int, num_latents: int) -> int | None:
        return 2 * input_dim * num_latents

    def calibrated(self, model: Model, signals: Float[Array, "n input_dim"]) -> Model:
        """The model with parameters found from signals at once. An encoder that has it is not
        trained on a frozen dictionary.
        """
        return model

    def observe(self, model: Model, seen: Any) -> Model:
        """The model after a training step, with what its batch left behind: statistics that no
        gradient trains.
        """
        return model

    def raised(self, model: Model, change: Float[ArrayLike, ""]) -> Model:
        """The model with its thresholds times exp(change), of an encoder that has some: how
        training steers its L0.
        """
        return model

    def affine(self, model: Model) -> Affine | None:
        """The map of `y - b` whose largest outputs the codes are; None where no single one decides
        them.
        """
        return model.encoder if isinstance(model.encoder, Affine) else None

    def preactivations(
        self, model: Model, signals: Float[Array, "n input_dim"]
    ) -> Float[Array, "n num_latents"]:
        """`(y - b) W + c`."""
        return model.encoder(signals - model.bias)


def rectangle(x: jax.Array) -> jax.Array:
    """The rectangle kernel, 1 on (-1/2, 1/2), by which a step is smoothed in a straight-through
    gradient.
    """
    return (jnp.abs(x) < 0.5).astype(x.dtype)


def check_model(model: Model, encode: Any = None) -> None:
    """Refuses a model that cannot be measured: whose dictionary, bias or encoder do not fit each
    other, or are not finite.

    Args:
      model: with a dictionary.
      encode: what infers, whose parameters must have the shapes that it starts with; None takes
        `model.encode`.

    Raises:
      TypeError: it is no `Model`.
      ValueError: it has no dictionary, or a part of it does not fit; the message says which, and
        how to mend it.
    """
    check_type("model", model, Model, "give sae_gap.Model(dictionary, bias, encoder, encode)")
    check_type(
        "the dictionary", model.decoder, (np.ndarray, jax.Array), "give an array of NumPy or JAX"
    )
    atoms = matching.as_matrix("the dictionary", model.decoder)
    check_vanishing("the dictionary", np.abs(atoms).max(axis=0), jnp.zeros(()).dtype)
    bias = as_real("bias", model.bias, f"{len(atoms)} finite numbers, one for each dimension")
    if bias.shape != atoms.shape[:1] or not np.isfinite(bias).all():
        raise ValueError(
            f"bias must be {len(atoms)} finite numbers, one for each dimension, but it is "
            f"{shown(bias)}; give zeros for none."
        )
    for part in jax.tree.leaves(model.encoder, is_leaf=lambda part: isinstance(part, Affine)):
        if isinstance(part, Affine):
            as_floats("the encoder's weight", part.weight)
            as_floats("the encoder's bias", part.bias)
    encode = model.encode if encode is None else encode
    if isinstance(encode, AmortisedEncoder):
        blank = jax.ShapeDtypeStruct(atoms.shape, jnp.zeros(()).dtype)
        initial = eqx.filter_eval_shape(encode.parameters, blank, jax.random.key(0))
        if jax.tree.structure(initial) == jax.tree.structure(model.encoder):  # type: ignore[operator]
            jax.tree.map_with_path(_check_shape, initial, model.encoder)
        elif initial is not None:
            raise ValueError(
                f"{type(encode).__name__} reads {type(initial).__name__} from Model.encoder, but "
                f"it is {shown(model.encoder)}; "
                "give the parameters that it was trained with."
            )


def _check_shape(path: Any, initial: jax.ShapeDtypeStruct, found: Any) -> None:
    shape = np.shape(found)
    if shape != initial.shape:
        turned = (
            "transpose it, as a PyTorch encoder's is the other way round"
            if shape[::-1] == initial.shape
            else ""
        )
        raise ValueError(
            f"the encoder's {jax.tree_util.keystr(path)[1:]} must have the shape {initial.shape} "
            "for this dictionary, but it "
            f"has {shape}; {turned or 'give the parameters that belong to this dictionary'}."
        )


def as_floats(name: str, values: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Finite real numbers in the float type that JAX computes in."""
    array = as_real(name, values, "real numbers")
    with np.errstate(over="ignore"):
        array = array.astype(jnp.zeros(()).dtype)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite in {array.dtype}, but a number is NaN, infinite or too large; "
            "mend or scale it."
        )
    return jnp.asarray(array)


def on_unit_atoms(
    model: Model, signals: Float[Array, "n input_dim"]
) -> tuple[
    Float[Array, "n input_dim"], Float[Array, "input_dim num_latents"], Float[Array, " num_latents"]
]:
    """The target, the atoms at unit length, and the lengths that they had."""
    return signals - model.bias, *jax.jit(unit_atoms)(model.decoder)


def unit_atoms(
    dictionary: Float[Array, "input_dim num_latents"],
) -> tuple[Float[Array, "input_dim num_latents"], Float[Array, " num_latents"]]:
    """Scales each atom to unit length and gives the lengths; an atom of zeros stays, with length 1.

    Codes in units of the given atoms, times the lengths, are codes in units of the scaled ones.
    """
    # Squares of a tiny atom would vanish, and the root of zero has no gradient.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(dictionary), axis=0))
    # A NaN is no zero, and must show.
    live = largest != 0
    largest = jnp.where(live, largest, 1)
    scaled = jnp.where(live, dictionary / largest, 0)
    lengths = jnp.sqrt(jnp.where(live, jnp.sum(scaled**2, axis=0), 1))
    return scaled / lengths, largest * lengths

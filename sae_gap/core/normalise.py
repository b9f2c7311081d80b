"""Normalises activations as published SAEs do before encoding, and undoes it after decoding.

Rows are arrays of NumPy or JAX, or tensors of PyTorch.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float


@dataclass(frozen=True)
class Normalisation:
    """The identity. Subclasses override `apply` and `undo`."""

    # Its name in a SAELens configuration; None if only statistics in further files define it.
    saelens: ClassVar[str | None] = "none"
    # True if `undo` needs the activations that `apply` was given.
    per_sample: ClassVar[bool] = False
    # Its name in a report.
    name: ClassVar[str] = "none"

    def apply(
        self, activations: Float[Any, "n input_dim"]
    ) -> Float[Any, "n input_dim"]:
        """Normalises activations."""
        return activations

    def undo(
        self,
        normalised: Float[Any, "n input_dim"],
        like: Float[Any, "n input_dim"] | None,
    ) -> Float[Any, "n input_dim"]:
        """Returns a decoder's output in the units of activations.

        Args:
          normalised: the output in units of the normalised activations.
          like: the activations; None unless the normalisation is `per_sample`.
        """
        return normalised


@dataclass(frozen=True)
class Scale(Normalisation):
    """`x s`, with one s for all samples, which gives them the mean norm √d."""

    saelens = None
    factor: float

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"scaled by {self.factor:.4g}"

    def apply(self, activations: Any) -> Any:
        return activations * self.factor

    def undo(self, normalised: Any, like: Any) -> Any:
        return normalised / self.factor


@dataclass(frozen=True)
class Whitening(Normalisation):
    """`(x - m) M`, undone by `y M⁻¹ + m`."""

    saelens = None
    name = "covariance whitening"
    mean: Float[Any, " input_dim"]
    matrix: Float[Any, "input_dim input_dim"]
    inverse: Float[Any, "input_dim input_dim"]

    def apply(self, activations: Any) -> Any:
        return (activations - self.mean) @ self.matrix

    def undo(self, normalised: Any, like: Any) -> Any:
        return normalised @ self.inverse + self.mean


@dataclass(frozen=True)
class ConstantNorm(Normalisation):
    """`x √d / ‖x‖`; a zero activation stays zero."""

    saelens = "constant_norm_rescale"
    per_sample = True
    name = "constant norm"

    def apply(self, activations: Any) -> Any:
        return activations / self._factor(activations)

    def undo(self, normalised: Any, like: Any) -> Any:
        return normalised * self._factor(like)

    def _factor(self, activations: Any) -> Any:
        norms = (activations**2).sum(1)[:, None] ** 0.5
        return norms / activations.shape[1] ** 0.5 + (norms == 0)


@dataclass(frozen=True)
class LayerNorm(Normalisation):
    """`(x - μ) / (σ + 10⁻⁵)` with the mean μ and the standard deviation σ over a sample's d
    dimensions, with d - 1 degrees of freedom.

    It is undone by `y σ + μ`, as in its library, without the 10⁻⁵.
    """

    saelens = "layer_norm"
    per_sample = True
    name = "layer norm"

    def apply(self, activations: Any) -> Any:
        mean, deviation = self._moments(activations)
        return (activations - mean) / (deviation + 1e-5)

    def undo(self, normalised: Any, like: Any) -> Any:
        mean, deviation = self._moments(like)
        return normalised * deviation + mean

    def _moments(self, activations: Any) -> tuple[Any, Any]:
        mean = activations.mean(1)[:, None]
        squares = ((activations - mean) ** 2).sum(1)[:, None]
        return mean, (squares / (activations.shape[1] - 1)) ** 0.5

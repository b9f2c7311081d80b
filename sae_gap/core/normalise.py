"""What published SAEs do to activations before they encode them, and how their decoders undo it.

Rows are arrays of NumPy, of JAX or tensors of PyTorch alike.
"""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """The identity. Subclasses change both functions."""

    # What a SAELens configuration calls it; None where only statistics in further files tell it.
    saelens: ClassVar[str | None] = "none"
    # Whether undoing it needs the activations that it was done to.
    per_sample: ClassVar[bool] = False
    # What a report calls it.
    name: ClassVar[str] = "none"

    def apply(self, activations: Float[Any, "n input_dim"]) -> Float[Any, "n input_dim"]:
        """The normalised activations."""
        return activations

    def undo(
        self, normalised: Float[Any, "n input_dim"], like: Float[Any, "n input_dim"] | None
    ) -> Float[Any, "n input_dim"]:
        """What a decoder gives, in the units of activations.

        Args:
          normalised: in units of the normalised activations.
          like: the activations; None where the normalisation is not `per_sample`.
        """
        return normalised


@dataclasses.dataclass(frozen=True)
class Scale(Normalisation):
    """`x s`, with one s for all samples, by which their mean norm becomes √d."""

    saelens = None
    factor: float

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"scaled by {self.factor:.4g}"

    def apply(self, activations):
        return activations * self.factor

    def undo(self, normalised, like):
        return normalised / self.factor


@dataclasses.dataclass(frozen=True)
class Whitening(Normalisation):
    """`(x - m) M`, undone by `y M⁻¹ + m`."""

    saelens, name = None, "covariance whitening"
    mean: Float[Any, " input_dim"]
    matrix: Float[Any, "input_dim input_dim"]
    inverse: Float[Any, "input_dim input_dim"]

    def apply(self, activations):
        return (activations - self.mean) @ self.matrix

    def undo(self, normalised, like):
        return normalised @ self.inverse + self.mean


@dataclasses.dataclass(frozen=True)
class ConstantNorm(Normalisation):
    """`x √d / ‖x‖`; an activation of zeros stays."""

    saelens, per_sample, name = "constant_norm_rescale", True, "constant norm"

    def apply(self, activations):
        return activations / self._factor(activations)

    def undo(self, normalised, like):
        return normalised * self._factor(like)

    def _factor(self, activations):
        norms = (activations**2).sum(1)[:, None] ** 0.5
        return norms / activations.shape[1] ** 0.5 + (norms == 0)


@dataclasses.dataclass(frozen=True)
class LayerNorm(Normalisation):
    """`(x - μ) / (σ + 10⁻⁵)` with a sample's mean μ and standard deviation σ, of d - 1 degrees,
    over its dimensions.

    Like its library, it undoes this by `y σ + μ`.
    """

    saelens, per_sample, name = "layer_norm", True, "layer norm"

    def apply(self, activations):
        mean, deviation = self._moments(activations)
        return (activations - mean) / (deviation + 1e-5)

    def undo(self, normalised, like):
        mean, deviation = self._moments(like)
        return normalised * deviation + mean

    def _moments(self, activations):
        mean = activations.mean(1)[:, None]
        squares = ((activations - mean) ** 2).sum(1)[:, None]
        return mean, (squares / (activations.shape[1] - 1)) ** 0.5

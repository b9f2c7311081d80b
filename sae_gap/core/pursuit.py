"""What all forms of the screened pursuit share. `sae_gap.encoders.screened_pursuit` describes the
method. Each step has one name in all forms:

| | Numba, a row at a time | XLA | tensors |
|---|---|---|---|
| file | `loops.screened` | `solvers.screened` | `torch.batched` |
| k largest | `k_largest` | `lax.top_k` | `Tensor.topk` |
| orthogonal matching pursuit | `omp` | `omp.omp` | `omp` |
| least squares over z ≥ 0 | `nonnegative_least_squares` | the same | the same |
| backward elimination | `prune` | `prune` | `prune` |
| all of it | `loops.host.screened_pursuit` | `screened_pursuit` | `screened_pursuit` |

`tests/solvers/test_pursuits.py` holds all forms to loops in NumPy and SciPy. The threshold τ of a
pruned pursuit is in units of the signals: an atom goes while that raises the squared error by less
than τ². Models and files have it over the root mean square of the atoms' lengths.
"""

from math import inf
from typing import Any

from jaxtyping import Float

# The method's name in configurations.
PURSUIT = "sae_gap_pursuit"
# The largest Gram matrix of all atoms that is stored, in floats.
WHOLE = 2**27
# An atom is dependent if less than this share of its energy lies outside the span of those chosen.
DEPENDENT = 1e-5
# The inverse of a Gram matrix of unit atoms has 1 at least on its diagonal, and 0 for dropped ones.
LEFT = 0.5
# First all values of the wrong sign are exchanged at once, then one at a time; hardly any sample
# takes ten exchanges.
EXCHANGES = 20
MOST = 200
# A value may be this far below zero, and a correlation this far above, for a signal and atoms of
# unit norm.
SLACK = 1e-6


def least_gain(gains: Float[Any, "..."], kept: Any) -> Any:
    """Returns a threshold that `kept` gains exceed, with any that equal the last of them: halfway
    from it to the next smaller one.
    """
    arrays = gains.__array_namespace__()
    ordered = arrays.sort(gains.ravel())
    last = arrays.take(ordered, gains.size - round(kept), mode="clip")
    return (last + arrays.max(arrays.where(gains < last, gains, 0))) / 2


def eliminate(
    arrays: Any, table: Float[Any, "size_and_one size"], gains: Float[Any, " size"]
) -> tuple[Any, Any]:
    """Drops an atom by backward elimination: that of least cost `z_j² / (G⁻¹)_jj`.

    Args:
      arrays: `jax.numpy` or `torch`.
      table: G⁻¹, the inverse of the Gram matrix, and below it the least squares z; zeros for atoms
        dropped before.
      gains: the largest cost so far for atoms that are left, and up to its own for a dropped one.

    Returns:
      The same without the atom.
    """
    left = arrays.diagonal(table)
    costs = arrays.where(left > LEFT, table[-1] ** 2 / left, inf)
    out = costs.argmin()[None]
    column = table[:, out]
    gains = arrays.maximum(gains, costs.min() * (left > LEFT))
    return table - column * (column[:-1].T / column[out]), gains


def whole_pays(
    num_latents: int,
    num_samples: int,
    m: int,
    sizes: tuple[int, ...],
    most: int | None = None,
) -> bool:
    """Whether the Gram matrix of all atoms fits, and costs no more than those of the candidates.

    Args:
      num_latents: all atoms.
      num_samples: samples to code.
      m: candidates of a screen.
      sizes: numbers of atoms after the screens.
      most: the largest Gram matrix, in floats; None takes `WHOLE`.
    """
    paid = num_samples * len(sizes) * m**2
    return num_latents**2 <= min(WHOLE if most is None else most, paid)


def check_threshold(value: Any) -> None:
    """Raises a ValueError unless a calibrated threshold is positive."""
    if not value > 0:
        raise ValueError(
            "no threshold leaves so many atoms; give rows of which the dictionary explains "
            "something, and a k below half of input_dim and of the atoms."
        )


def check_k(k: int, input_dim: int, num_latents: int) -> None:
    """Raises a ValueError unless so many atoms can be independent."""
    if k > min(input_dim, num_latents):
        raise ValueError(
            f"k must be at most the {input_dim} dimensions and the {num_latents} latents, but it "
            f"is {k}; give fewer atoms."
        )


def screen_sizes(
    k: int, breadth: int, screens: int, input_dim: int, num_latents: int
) -> tuple[int, tuple[int, ...]]:
    """Returns the candidates of a screen, and the number of atoms after each screen."""
    size = min(k, input_dim, num_latents)
    sizes = (-(-size * screen // screens) for screen in range(1, screens + 1))
    return min(breadth * k, num_latents), tuple(sizes)

"""What all forms of the screened pursuit share: `sae_gap.encoders.screened_pursuit` describes the
method, `sae_gap.loops.host` has it for a CPU, `sae_gap.solvers.screened` for XLA, and
`sae_gap.torch.batched` for tensors elsewhere. All select, refit and prune alike.
"""

from typing import Any

from jaxtyping import Float

# The method's name in configurations.
PURSUIT = "sae_gap_pursuit"
# The largest Gram matrix of all atoms that is stored, in floats.
WHOLE = 2**27
# An atom is dependent if less than this share of its energy lies outside the span of those chosen.
DEPENDENT = 1e-5
# First all values of the wrong sign are exchanged at once, then one at a time; hardly any sample
# takes ten exchanges.
EXCHANGES, MOST = 20, 200
# A value may be this far below zero, and a correlation this far above, for a signal and atoms of
# unit norm.
SLACK = 1e-6


def least_gain(gains: Float[Any, "n size"], l0: float) -> Any:
    """The gain that l0 atoms a row exceed on average: halfway between the last and the next."""
    flat = gains.reshape(-1)
    ordered, first = flat[flat.argsort()], max(0, len(flat) - max(1, round(l0 * len(gains))))
    return (ordered[first] + ordered[max(0, first - 1)]) / 2


def whole_pays(
    num_latents: int, num_samples: int, m: int, sizes: tuple[int, ...], most: int | None = None
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

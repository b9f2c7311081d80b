"""The TopK encoder with steps of LISTA: what the codes so far leave unexplained is encoded as
well.
"""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float

from sae_gap.core.checks import check_size
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine, AmortisedEncoder
from sae_gap.encoders.topk import keep_largest


class LISTATopKParameters(eqx.Module):
    """The affine map of each step."""

    steps: tuple[Affine, ...]


class LISTATopK(AmortisedEncoder):
    """`z ← top_k(relu(z + (y - b - D z) W_t + c_t))` for each step t, from `z = 0`; one step is
    TopK.

    A latent that another one explains away can still be left out, and one that it hid can come in.
    Each step after the first costs two products more.

    Args:
      k: latents to keep after each step.
      depth: steps, each with parameters of its own.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML; Gao et al.
      (2024), arXiv:2406.04093.
    """

    name = "lista_topk"
    label = "LISTA-TopK"
    colour = "#E7298A"
    rank = 8

    k: int = eqx.field(static=True, default=10)
    depth: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        check_size("k", self.k)
        check_size("depth", self.depth)

    def parameters(self, weight, key):
        return LISTATopKParameters((Affine.create(weight),) * self.depth)

    def __call__(self, model, signals):
        return self.iterates(model, signals, lambda hidden, step: keep_largest(hidden, self.k))[-1]

    def iterates(
        self,
        model: Model,
        signals: Float[Array, "n input_dim"],
        keep: Callable[[Float[Array, "n num_latents"], int], Float[Array, "n num_latents"]],
    ) -> list[Float[Array, "n num_latents"]]:
        """The codes after each step, of which `keep` thins the rectified ones, given the number of
        the step.
        """
        first, *others = model.encoder.steps
        target = signals - model.bias
        # The first step starts from nothing, which spares it the product with the codes.
        codes = [keep(jax.nn.relu(first(target)), 0)]
        for number, step in enumerate(others, 1):
            codes.append(
                keep(jax.nn.relu(codes[-1] + step(target - codes[-1] @ model.decoder.T)), number)
            )
        return codes

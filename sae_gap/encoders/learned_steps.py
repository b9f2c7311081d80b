"""An encoder with a few learned steps of inference: how much of a pursuit can be amortised?"""

import jax
from equinox import Module
from jax import random
from jax.nn import relu
from jaxtyping import Array, Float

from sae_gap.core import option
from sae_gap.encoders import Affine, AmortisedEncoder, keep_largest


class WithHidden(Module):
    """`x ↦ x W + c + relu(x A + a) B`: an affine map beside a hidden layer."""

    direct: Affine
    inner: Affine
    outer: Float[Array, "hidden num_latents"]

    def __call__(
        self, signals: Float[Array, "n input_dim"]
    ) -> Float[Array, "n num_latents"]:
        return self.direct(signals) + relu(self.inner(signals)) @ self.outer


class StepsParameters(Module):
    """The first map, and that of each step."""

    first: Affine | WithHidden
    steps: tuple[Affine, ...]


class LearnedSteps(AmortisedEncoder):
    """Encodes, subtracts what the codes explain, and encodes the rest, with maps of its own for
    each step t:

        z ← relu((y - b) W₀ + c₀),   z ← relu(z' + (y - b - D z') W_t + c_t),

    where z' are the `breadth` · k largest of z, and D is the dictionary; it keeps the k largest of
    the last z. Each step costs two further products, and nothing is searched. Without steps it is
    TopK. Each W_t starts as `rate` · W₀.

    Args:
      k: latents in a code.
      steps: how often it encodes what is left.
      breadth: candidates of a step for each latent of a code.
      rate: of the initial steps.
      hidden: width of a hidden layer `relu((y - b) A + a) B` that the first map has too.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML, whose steps
      have thresholds; the largest are kept as in Gao et al. (2024), arXiv:2406.04093.
    """

    name = "learned_steps"
    label = "learned steps"
    colour = "#44BB99"
    rank = 10
    reads_inputs = False

    k: int = option(default=10)
    steps: int = option(default=1, least=0)
    breadth: int = option(default=2)
    rate: float | Array = option(default=0.3, above=0)
    hidden: int = option(default=0, least=0)

    @property
    def coordinates(self):
        return {"inference": self.name, "depth": self.steps}

    def parameters(self, weight, key):
        first: Affine | WithHidden
        first = Affine.create(weight)
        (input_dim, num_latents) = weight.shape
        if self.hidden:
            draws = random.normal(key, (input_dim, self.hidden), weight.dtype)
            inner = Affine.create(draws / input_dim**0.5)
            outer = jax.numpy.zeros((self.hidden, num_latents), weight.dtype)
            first = WithHidden(first, inner, outer)
        return StepsParameters(first, (Affine.create(self.rate * weight),) * self.steps)

    def flops(self, input_dim, num_latents):
        hidden = self.hidden * (input_dim + num_latents)
        return 2 * ((1 + 2 * self.steps) * input_dim * num_latents + hidden)

    def __call__(self, model, signals):
        target = model.read(signals)
        codes = relu(model.encoder.first(target))
        for step in model.encoder.steps:
            codes = keep_largest(codes, self.breadth * self.k)
            codes = relu(codes + step(target - codes @ model.decoder.T))
        return keep_largest(codes, self.k)

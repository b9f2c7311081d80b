"""The Matryoshka encoder with a step of LISTA: it also encodes the residual of its first codes."""

import jax
from jaxtyping import Array

from sae_gap.core import option
from sae_gap.encoders import MatryoshkaBatchTopK, Recipe, above


class ListaMatryoshka(MatryoshkaBatchTopK):
    """`h = relu(a + η (y - b - D z) W)`, where `a = (y - b) W + c`, `z = relu(a) · 1[a > θ]` and D
    is the dictionary.

    The rest is `MatryoshkaBatchTopK`: the largest h are kept, and θ is the threshold of both. The
    step subtracts from a latent's pre-activation what active latents explain already, so that
    coherent atoms need not be on together. It costs two more products.

    Args:
      k: latents a sample, on average over a batch.
      rate: weight of the newest batch in the threshold.
      initial_factor: the multiple of k at the start of training, 2.4 where tuned.
      prefixes: increasing shares of the latents, one for each nested dictionary.
      step: η.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML.
      chanind found that a single step and a falling k pay on a world of SynthSAEBench, in
      claude-auto-research-synthsaebench (2026), where k falls from 60 to 25; this suite chose the
      form.
    """

    name = "lista_matryoshka"
    label = "LISTA-Matryoshka"
    colour = "#882255"
    rank = 7
    recipe = Recipe(options={"initial_factor": 2.4})
    reads_inputs = False

    step: float | Array = option(default=0.3, above=0)

    def flops(self, input_dim, num_latents):
        return 3 * 2 * input_dim * num_latents

    def affine(self, model):
        return None

    def _hidden(self, model, signals):
        affine, centred = model.encoder.affine, signals - model.bias
        before = affine(centred)
        codes = above(before, model.encoder.threshold, jax.nn.relu(before))
        return jax.nn.relu(before + self.step * (centred - codes @ model.decoder.T) @ affine.weight)

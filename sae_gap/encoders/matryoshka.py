"""The Matryoshka encoder: a BatchTopK whose first latents must reconstruct alone."""

import itertools
import math

import jax.numpy as jnp

from sae_gap.core import check_options, option
from sae_gap.encoders import BatchTopK


class MatryoshkaBatchTopK(BatchTopK):
    """BatchTopK trained on the mean of the squared errors of nested dictionaries: the first m atoms
    for each prefix m.

    The codes are chosen once, among all latents, and cut to each prefix.

    Args:
      k: latents a sample, on average over a batch.
      rate: weight of the newest batch in the threshold.
      initial_factor: the multiple of k at the start of training.
      prefixes: increasing shares of the latents, one for each nested dictionary, rounded up; the
        last must be 1.

    References:
      Bussmann, Nabeshima, Karvonen & Nanda (2025), "Learning multi-level features with Matryoshka
      sparse autoencoders", arXiv:2503.17547; the default takes its sizes.
    """

    name = "matryoshka"
    label = "Matryoshka"
    colour = "#AA4499"
    rank = 6

    prefixes: tuple[float, ...] = option(
        default=(1 / 32, 3 / 32, 7 / 32, 15 / 32, 1), static=True, above=0, most=1
    )

    def __check_init__(self):
        check_options(self)
        increasing = all(low < high for low, high in itertools.pairwise((0, *self.prefixes)))
        if self.prefixes[-1] != 1 or not increasing:
            raise ValueError(
                "prefixes must be increasing shares above 0 that end with 1, but they are "
                f"{self.prefixes}."
            )

    def errors(self, model, signals, codes):
        ends = [math.ceil(share * codes.shape[1]) for share in self.prefixes]
        rest = model.outputs(signals) - model.bias
        total = jnp.zeros(len(signals), signals.dtype)
        for start, end in itertools.pairwise((0, *ends)):
            rest = rest - codes[:, start:end] @ model.decoder[:, start:end].T
            total = total + jnp.mean(rest**2, axis=1)
        return total / len(ends)

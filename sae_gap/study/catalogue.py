"""The sparse autoencoders by name: one more line here is one more SAE for every study that names it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sae_gap.encoders.batchtopk import BatchTopK
from sae_gap.encoders.encoder import AmortisedEncoder
from sae_gap.encoders.gated import Gated
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lista_matryoshka import ListaMatryoshka
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.matryoshka import MatryoshkaBatchTopK
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder


class Recipe(NamedTuple):
    """How an SAE is trained.

    Attributes:
      published: the encoder as the paper has it, given the sparsity; None where the paper has none.
      tuned: the encoder at its best, given the sparsity.
      rate: the tuned learning rate.
      penalty: the tuned penalty times input_dim, since the squared error is a mean over it.
    """

    published: Callable[[int], AmortisedEncoder] | None
    tuned: Callable[[int], AmortisedEncoder]
    rate: float
    penalty: float


# How the tuned options were found stands in RESULTS.md.
RECIPES = {
    "relu": Recipe(lambda k: ReLU(), lambda k: ReLU(), 2e-3, 0.3),
    "topk": Recipe(TopK, TopK, 1e-3, 0.0),
    "jumprelu": Recipe(lambda k: JumpReLU(), lambda k: JumpReLU(threshold=0.1, bandwidth=0.1), 1e-3, 0.03),
    "mp": Recipe(MatchingPursuit, MatchingPursuit, 5e-3, 0.0),
    "batchtopk": Recipe(None, BatchTopK, 1e-3, 0.0),
    "matryoshka": Recipe(None, MatryoshkaBatchTopK, 1e-3, 0.0),
    # Rate and step are as they come, and not tuned.
    "lista_matryoshka": Recipe(None, ListaMatryoshka, 1e-3, 0.0),
    "gated": Recipe(None, lambda k: Gated(), 1e-3, 0.5),
}
# The SAEs of the paper, which are in every study.
PUBLISHED = tuple(name for name, recipe in RECIPES.items() if recipe.published is not None)


def published(name: str, *, sparsity: int, **options: Any) -> SparseAutoencoder:
    """A sparse autoencoder as the paper trains it.

    Args:
      name: one of `PUBLISHED`.
      sparsity: k of the encoders that need one.
      options: of `SparseAutoencoder`, such as `num_steps`.
    """
    make = RECIPES[name].published
    if make is None:
        raise ValueError(f"the paper has no {name} SAE; choose one of {', '.join(PUBLISHED)}, or tuned options.")
    return SparseAutoencoder(make(sparsity), **options)


def tuned(name: str, *, sparsity: int, input_dim: int, **options: Any) -> SparseAutoencoder:
    """A sparse autoencoder with the encoder, the rate and the penalty that were found best for it.

    Args:
      name: one of `RECIPES`.
      sparsity: k of the encoders that need one.
      input_dim: dimension of the signals.
      options: of `SparseAutoencoder`, such as `num_steps`.
    """
    recipe = RECIPES[name]
    return SparseAutoencoder(recipe.tuned(sparsity), learning_rate=recipe.rate, penalty=recipe.penalty / input_dim, **options)

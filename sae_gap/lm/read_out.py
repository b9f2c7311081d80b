"""What the unembedding reads out of features, a few hundred tokens at a time."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp, softmax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from sae_gap.core import product

# The logits of so many tokens lie in memory at once.
CHUNK = 256


class ReadOut(NamedTuple):
    """What is read out of the features of each token.

    Attributes:
      log_z: log Z, (tokens,).
      logit: that of the target, (tokens,).
      expected: ē, the mean row of E under the distribution of the next token, (tokens, features),
        if asked for.
    """

    log_z: Float[Any, " tokens"]
    logit: Float[Any, " tokens"]
    expected: Float[Any, "tokens features"] | None


def read_out(
    unembedding: Float[ArrayLike, "vocabulary features"],
    features: Float[np.ndarray, "tokens features"],
    targets: Int[np.ndarray, " tokens"],
    *,
    expected: bool = False,
) -> ReadOut:
    """Reads features out, in float64."""
    parts = _read_out(unembedding, features, targets, expected=expected)
    return jax.tree.map(partial(np.asarray, dtype=np.float64), parts)


@partial(jax.jit, static_argnames="expected")
def _read_out(
    head: Array, features: Array, targets: Array, *, expected: bool
) -> ReadOut:
    def of_token(token: tuple[Array, Array]) -> ReadOut:
        feature, target = token
        logits = product(feature, head.T)
        log_z = logsumexp(logits)
        mean = product(jnp.exp(logits - log_z), head) if expected else None
        return ReadOut(log_z, logits[target], mean)

    return jax.lax.map(of_token, (features, targets), batch_size=CHUNK)


@jax.jit
def drawn_scores(
    head: Float[Array, "vocabulary features"],
    features: Float[Array, "tokens features"],
    key: Array,
) -> Float[Array, "tokens features"]:
    """Returns the gradient of `log q(v)` by each token's features, with v drawn from q."""

    def of_token(token: tuple[Array, Array]) -> Array:
        feature, key = token
        logits = product(feature, head.T)
        drawn = head[jax.random.categorical(key, logits)]
        return drawn - product(softmax(logits), head)

    keys = jax.random.split(key, len(features))
    return jax.lax.map(of_token, (features, keys), batch_size=CHUNK)

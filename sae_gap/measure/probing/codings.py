"""The codes that are probed: the encoder's own, the certified lasso's, and least squares on the supports of both."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float

from sae_gap.measure.front import chunks
from sae_gap.measure.refit import refit
from sae_gap.measure.subject import Subject
from sae_gap.solvers import sparse_code

# What codes are called, in the order of tables.
KINDS = {
    "own": "own codes",
    "own_refit": "least squares on own support",
    "lasso": "certified lasso",
    "lasso_refit": "least squares on lasso support",
}


def code(
    subject: Subject, x: Float[np.ndarray, "n input_dim"], lam: float
) -> tuple[dict[str, scipy.sparse.csr_array], dict[str, Float[np.ndarray, "n input_dim"]], float]:
    """Codes some activations in every way, and reconstructs them.

    Args:
      subject: a dictionary, and an encoder if there is one.
      x: activations, (n, input_dim).
      lam: the weight of the lasso.

    Returns:
      For each of `KINDS` that there is, the codes, (n, num_latents), and the reconstructions, (n, input_dim); and the largest
      duality gap of a lasso code relative to its objective.
    """
    codes: dict[str, list[Any]] = {}
    decoded: dict[str, list[np.ndarray]] = {}
    certificate = 0.0
    for part in chunks(len(x), subject.num_latents):
        target = subject.target(x[part])
        best = sparse_code(target, subject.dictionary, lam, nonneg=not subject.signed)
        certificate = max(certificate, float(jnp.max(jnp.where(best.objective > 0, best.gap / best.objective, 0))))
        found: dict[str, Any] = {} if subject.encode is None else {"own": subject.encode(target)}
        found["lasso"] = best.codes
        for kind in list(found):
            found[f"{kind}_refit"] = refit(target, subject.dictionary, found[kind] != 0, nonneg=not subject.signed)
        for kind, values in found.items():
            codes.setdefault(kind, []).append(scipy.sparse.csr_array(np.asarray(values)))
            decoded.setdefault(kind, []).append(np.asarray(subject.decode(jnp.asarray(values), x[part])))
    kinds = [kind for kind in KINDS if kind in codes]
    stacked = {kind: scipy.sparse.csr_array(scipy.sparse.vstack(codes[kind])) for kind in kinds}
    return stacked, {kind: np.concatenate(decoded[kind]) for kind in kinds}, certificate

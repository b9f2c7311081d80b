"""What the weights and the codes of an SAE show, whatever its cause."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import unique

from sae_gap.health import Read, Reading

# The most latents whose columns are compared.
_COMPARED = 256
# A column in its place has at least this cosine with its atom.
_NEAR = 0.25


class Evidence(NamedTuple):
    """What the weights and the codes show.

    Attributes:
      k: latents on in each row, as the configuration has it; 0 where it has none.
      alike: whether all atoms are about as long.
      aligned: the share of the codes' energy on latents whose encoder column is nearest to their
        own atom, of those of the most energy; None for an encoder without columns.
      negated: the same of latents whose column is farthest from it.
      misplaced: the same of latents whose column is as near to the atom of another, one to each, as
        others to their own.
      empty: latents whose atom or encoder column is zero.
      copies: atoms or encoder columns that are copies of others.
      zeros: whose bias is zero, of "decoder" and "encoder".
    """

    k: float
    alike: bool
    aligned: float | None
    negated: float
    misplaced: float
    empty: int
    copies: int
    zeros: tuple[str, ...]

    @classmethod
    def of(cls, own: Reading, read: Read) -> "Evidence":
        """The evidence of an SAE and of what it makes of rows."""
        sae = own.sae
        parts = [own.atoms]
        zeros = [] if own.bias.any() else ["decoder"]
        columns: dict[str, Any] = {"aligned": None, "negated": 0.0, "misplaced": 0.0}
        if affine := own.affine:
            weight = np.asarray(affine.weight).T
            parts.append(weight)
            columns = _compare(read.energy, own.atoms, weight)
            # Loading folded the decoder's bias into that of an encoder that does not subtract it.
            shift = np.zeros(1) if sae.centred else weight @ own.bias
            if np.allclose(affine.bias, shift, 0, 1e-5 * abs(shift).max()):
                zeros.append("encoder")
        empty = np.any([~part.any(axis=1) for part in parts], axis=0)
        return cls(
            k=float(getattr(sae.model.encode, "k", sae.notes.get("k", 0))),
            alike=bool(np.ptp(own.units) < 0.1 * np.min(own.units)),
            empty=int(empty.sum()),
            copies=max(_copies(part, ~empty) for part in parts),
            zeros=tuple(zeros),
            **columns,
        )


def _copies(vectors: np.ndarray, which: np.ndarray) -> int:
    """How many of some vectors are copies of others, of any length."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(vectors.shape[1], 16)).astype("f")
    # Copies have the same products with any directions; a negative zero is a zero.
    marks = vectors @ directions
    marks = marks[which] / np.linalg.norm(marks[which], axis=1, keepdims=True)
    return len(marks) - len(unique(marks.round(4) + 0, axis=0))


def _compare(
    energy: Float[np.ndarray, " num_latents"],
    atoms: Float[np.ndarray, "num_latents input_dim"],
    columns: Float[np.ndarray, "num_latents input_dim"],
) -> dict[str, float]:
    """`aligned`, `negated` and `misplaced` of the `Evidence`."""
    strong = np.argsort(-energy, kind="stable")[:_COMPARED]
    # All alike where no latent is on.
    share = energy[strong] + np.finfo(float).tiny
    share = share / share.sum()
    columns = columns[strong]
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    cosines = columns / np.maximum(lengths, 1e-30) @ atoms.T
    own = cosines[range(len(strong)), strong]
    best = cosines.max(axis=1)
    # A copied atom counts as its original.
    aligned = float(share @ (own >= best - 1e-5))
    # Columns out of their place are near to other atoms, one to each.
    astray = (own < best / 2) & (best > _NEAR)
    nearest = unique(cosines.argmax(axis=1)[astray])
    misplaced = float(share @ astray)
    is_permuted = len(nearest) > 0.9 * astray.sum() and misplaced > 0.8 * (1 - aligned)
    return {
        "aligned": aligned,
        "negated": float(share @ (cosines.argmin(axis=1) == strong)),
        "misplaced": misplaced if is_permuted else 0.0,
    }

"""What codes of activations reconstruct: as they are, and after least squares on their supports."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int

from sae_gap.measure.curve import certificate, chunks
from sae_gap.measure.refit import refit
from sae_gap.measure.subject import Subject
from sae_gap.runtime import devices
from sae_gap.solvers import pursuit_order, sparse_code


class Coding(NamedTuple):
    """Codes of activations.

    Attributes:
      codes: (n, num_latents).
      guess: the reconstructions, in the units of the activations, (n, input_dim).
    """

    codes: scipy.sparse.csr_array
    guess: Float[np.ndarray, "n input_dim"]


def code(
    subject: Subject,
    x: Float[np.ndarray, "n input_dim"],
    encode: Callable[[Array], Array],
    name: str,
    *,
    refitted: bool = True,
) -> dict[str, Coding]:
    """Codes activations, some at a time.

    Args:
      subject: whose dictionary decodes.
      x: activations, (n, input_dim).
      encode: gives the codes of targets, (n, num_latents).
      name: what the codes are called.
      refitted: whether to take least squares on their supports too.

    Returns:
      The codes by their name and, if asked for, those of least squares as `<name>_refit`.
    """
    found: dict[str, list[Coding]] = {}
    for part in chunks(len(x), subject.num_latents):
        target = devices.place(subject.target(x[part]), devices.own_mesh())
        every = {name: np.asarray(encode(target))}
        if refitted:
            every[f"{name}_refit"] = refit(target, subject.dictionary, every[name] != 0, nonneg=not subject.signed)
        for each, values in every.items():
            guess = np.asarray(subject.decode(jnp.asarray(values), x[part]))
            found.setdefault(each, []).append(Coding(scipy.sparse.csr_array(values), guess))
    return {
        each: Coding(
            scipy.sparse.csr_array(scipy.sparse.vstack([part.codes for part in parts])),
            np.concatenate([part.guess for part in parts]),
        )
        for each, parts in found.items()
    }


def code_lasso(subject: Subject, x: Float[np.ndarray, "n input_dim"], lam: float) -> tuple[dict[str, Coding], float]:
    """The codes of the certified lasso, `lasso`, and least squares on their supports, `lasso_refit`.

    Args:
      subject: whose dictionary to use.
      x: activations, (n, input_dim).
      lam: the weight of the lasso.

    Returns:
      Both codings, and the largest duality gap of a sample relative to its objective.
    """
    certificates = []

    def encode(target):
        found = sparse_code(target, subject.dictionary, lam, nonneg=not subject.signed)
        certificates.append(certificate(found))
        return found.codes

    return code(subject, x, encode, "lasso"), max(certificates)


def pursued(subject: Subject, x: Float[np.ndarray, "n input_dim"], steps: int) -> Int[np.ndarray, "n steps"]:
    """The atoms that orthogonal matching pursuit chooses for activations, in order.

    Args:
      subject: whose dictionary to use.
      x: activations, (n, input_dim).
      steps: of the pursuit.

    Returns:
      Numbers of atoms, (n, steps).
    """
    targets = devices.place(subject.target(x), devices.own_mesh())
    return np.asarray(pursuit_order(targets, subject.dictionary, steps, nonneg=not subject.signed))


def code_chosen(subject: Subject, x: Float[np.ndarray, "n input_dim"], chosen: Int[np.ndarray, "n k"]) -> Coding:
    """Least squares on given atoms, over non-negative values where codes are.

    Args:
      subject: whose dictionary to use.
      x: activations, (n, input_dim).
      chosen: numbers of atoms, (n, k).

    Returns:
      The coding.
    """
    parts = (chosen[part] for part in chunks(len(x), subject.num_latents))

    def mark(target):
        on = np.zeros((len(target), subject.num_latents), np.float32)
        np.put_along_axis(on, next(parts), 1, axis=1)
        return on

    return code(subject, x, mark, "chosen")["chosen_refit"]

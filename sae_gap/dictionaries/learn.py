"""The front doors: a dictionary learned of a user's activations, and one that `learn` did not make,
such as the rows of an unembedding.
"""

import contextlib
import os
import time

import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.typing import ArrayLike

from sae_gap.analysis import ROWS_AN_ATOM
from sae_gap.core import (
    Model,
    as_matrix,
    check_seed,
    check_size,
    check_varies,
    detached,
    evenly_spaced,
)
from sae_gap.dictionaries import (
    SCORED,
    LearnedDictionary,
    Rows,
    check_sparse,
    fit_rows,
    open_rows,
)
from sae_gap.encoders import check_model, unit_atoms
from sae_gap.learners import OnlineDictionary
from sae_gap.learners.online.online_dictionary import VISITS
from sae_gap.storage import Folder, trees


def learn(
    activations: Rows,
    width: int,
    l0: float,
    *,
    seed: int = 0,
    documents: ArrayLike | None = None,
    targets: Rows | None = None,
    outliers: str = "drop",
    visits: float = VISITS,
    checkpoint: str | os.PathLike[str] | None = None,
    show_progress: bool = True,
) -> LearnedDictionary:
    """Learns a dictionary of activations by `online_dl`, with the options of
    `OnlineDictionary.for_activations`.

    It holds a tenth of the documents out, the same ones for any seed; see `Activations.split`. Rows
    of more than 2 GiB as float32 stay in their files: each of a hundred rounds reads other rows,
    from all over the file. A compressed .npz file is held in memory. An array is copied.

    It warns if there are fewer than twenty rows to learn from for each atom.

    Args:
      activations: rows, (n, input_dim) or (documents, tokens, input_dim), the path of a file or
        folder of them, or the result of `open_activations`.
      width: number of atoms.
      l0: mean L0 at which the dictionary will be used, at most a quarter of the dimensions.
      seed: seeds the fit.
      documents: the document of each row of an array.
      targets: what a transcoder explains, a row for each activation, which it reads. The dictionary
        is then one of the targets, and `sae` trains a transcoder on it.
      outliers: "drop" leaves out rows beyond ten times the median norm, "keep" learns from them
        too; both report them.
      visits: rows coded for each atom over the whole fit; time grows with it, and a quarter of them
        still does well.
      checkpoint: a folder, or the URL of one in a bucket, that stores the state about once a
        minute. After a kill the same call goes on from there and ends with the same dictionary. The
        state is removed at the end.
      show_progress: whether to show a line of progress on a terminal or in a notebook.

    Returns:
      The dictionary.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: the activations cannot be read, or an argument does not fit.
    """
    check_size("width", width)
    check_seed(seed)
    # JAX would trace numbers of NumPy's.
    width = int(width)
    l0 = float(l0)
    visits = float(visits)
    # Later methods of the dictionary read the rows again.
    inputs, rows = open_rows(
        activations, documents=documents, targets=targets, outliers=outliers
    )
    check_sparse("l0", l0, rows.input_dim, width)
    train, _ = parts = rows.split()
    if train.num_samples < ROWS_AN_ATOM * width:
        logging.warning(
            "%d rows to learn %d atoms from are fewer than %d for each, so that the dictionary "
            "will explain less than it could; give more rows, or learn fewer atoms",
            train.num_samples,
            width,
            ROWS_AN_ATOM,
        )
    check_varies(train.take(evenly_spaced(train.num_samples, SCORED)))
    save = None
    if checkpoint is not None:
        save = trees.Checkpoint(
            Folder(checkpoint), "learn.safetensors", fit=train.fingerprint
        )
    learner = OnlineDictionary.for_activations(width, l0, rows.input_dim, visits=visits)
    began = time.perf_counter()
    model = fit_rows(
        learner, train, width, seed, checkpoint=save, show_progress=show_progress
    )
    if save:
        save.discard()
    learned = LearnedDictionary(model, l0, time.perf_counter() - began, parts, inputs)
    # If no weight gives this L0, `lam` raises only when it is called, and the result is not lost.
    with contextlib.suppress(ValueError):
        learned.lam()
    return learned


def dictionary(
    atoms: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    l0: float = 25,
) -> LearnedDictionary:
    """Makes of given atoms the class that `learn` returns: it encodes, scores, reports and
    compares.

    It has no rows of its own. So `encode` finds the weight for an L0 on the rows that it codes, and
    `fvu`, `report` and `lam` need activations.

    Args:
      atoms: non-zero atoms of any length, as columns, (input_dim, num_latents); codes are for the
        atoms scaled to unit length.
      bias: b in `x ≈ b + D z`, (input_dim,); None takes zeros, so that codes are of the unshifted
        activations.
      l0: the default mean L0 of codes.

    Returns:
      The dictionary.

    Raises:
      ValueError: the atoms are no finite matrix, one is zero, or the bias does not fit them.
    """
    matrix = as_matrix("atoms", atoms)
    decoder = unit_atoms(jnp.asarray(matrix))[0]
    empty = np.flatnonzero(~np.asarray(decoder).any(axis=0))
    if empty.size:
        raise ValueError(
            f"{empty.size} of the atoms have zero length, the first is number {empty[0]}; leave "
            "them out."
        )
    offset = np.zeros(len(matrix)) if bias is None else detached(bias)
    model = Model(decoder, jnp.asarray(offset, decoder.dtype))
    check_model(model)
    return LearnedDictionary(model, l0)

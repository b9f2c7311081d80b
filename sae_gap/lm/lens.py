"""The Jacobian lens: the words that an activation disposes a language model to say, now or later.

With h_l,t the residual stream after block l at place t of a window, and h_L,t the stream after the
last block, before the last norm,

  J_l = E [ 1/|V| Σ_{t ∈ V} Σ_{t' ∈ V} ∂h_L,t' / ∂h_l,t ],

the mean over windows. A token changes none before it, so only t' ≥ t count: J sums effects on later
places and averages over t. V are the places from `first` on, except outlier tokens and the last
place, whose next token is not in the window. The lens reads an activation h as

  softmax(E norm(J_l h; g)),

and without J_l it is the logit lens. The rows of E J_l are the vocabulary's atoms.

Shift all h_l,t with t ∈ V by δ_l / |V|: then J_l is the derivative in δ_l of Σ_{t' ∈ V} h_L,t', at
δ = 0. One vector-Jacobian product gives one row of every block's J, so a window costs as many of
them as h has dimensions. Derivatives and the blocks' matrices are rounded to bfloat16 before they
are multiplied, which changes J by half a per cent of its length and halves the time.

References:
  Gurnee et al. (2026), "Verbalizable representations form a global workspace in language models".
  The sum is that of its implementation, anthropics/jacobian-lens (jlens/fitting.py, July 2026),
  where V has outlier tokens too, `first` is 16 and windows have at most 128 tokens.
"""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from sae_gap.core.checks import AnyPath, check_choice, check_integer
from sae_gap.core.lasso_problem import product
from sae_gap.data.activations.outliers import find_outliers, norms
from sae_gap.lm.language_model import LanguageModel, Windows
from sae_gap.lm.pretrained import LM
from sae_gap.lm.texts import Texts
from sae_gap.runtime import progress
from sae_gap.storage import trees
from sae_gap.storage.folder import Folder
from sae_gap.storage.pickles import map_pt
from sae_gap.storage.results import digest
from sae_gap.storage.tensor_files import brief, reading

# Rows of J that are computed at once; they set the memory.
CHUNK = 8
# The type of derivatives and of the blocks' matrices in their products.
ROUNDED = jnp.bfloat16
# A J with an error above this share of its length gets a warning.
ROUGH = 0.5
# Raised whenever the numbers of the same lens change.
FORM = 2
_FILE = "lens.safetensors"
_DAMAGED = "the lens {} is damaged ({}); remove it and fit again."


class Lens(NamedTuple):
    """A Jacobian lens of a model.

    Attributes:
      lm: the model.
      jacobians: J_l by block, counted from 0, each (dim, dim); the last block, whose J is the
        identity, is left out.
      windows: the number of windows averaged.
      errors: the standard error of each J_l over its length, both in the Frobenius norm; empty if
        unknown.
    """

    lm: LM
    jacobians: Mapping[int, Float[np.ndarray, "dim dim"]]
    windows: int
    errors: Mapping[int, float]

    def jacobian(self, block: int) -> Float[np.ndarray, "dim dim"]:
        """Returns J of a block, counted from 0, which maps an activation h to J h.

        Raises:
          ValueError: the lens has no such block.
        """
        if block == self.lm.model.num_blocks - 1:
            return np.eye(self.lm.model.dim, dtype=np.float32)
        if block not in self.jacobians:
            told = ", ".join(map(str, self.jacobians))
            raise ValueError(f"the lens has no block {block}, but {told}; name one of them.")
        return self.jacobians[block]

    def log_probabilities(
        self, hidden: Float[ArrayLike, "*rows dim"], block: int
    ) -> Float[Array, "*rows vocabulary"]:
        """Returns the lens's log-probabilities for the residual stream after a block, in nats."""
        moved = product(jnp.asarray(hidden), jnp.asarray(self.jacobian(block)).T)
        return self.lm.model.log_probabilities(moved)

    def atoms(self, block: int) -> tuple[Float[np.ndarray, "vocabulary dim"], list[str]]:
        """Returns the atoms of a block, and the texts of their tokens.

        Returns:
          E J_l, a row for each token, not normalised, without the gain g of the last norm; and
          `LM.labels`.
        """
        jacobian, error = jnp.asarray(self.jacobian(block)), self.errors.get(block, 0)
        if error > ROUGH:
            logging.warning(
                "J after block %d has an error of %.2f of its length; give the lens more windows.",
                block,
                error,
            )
        found = product(self.lm.model.unembedding, jacobian)
        return np.asarray(found), self.lm.labels()

    def top_tokens(
        self, text: str, blocks: Sequence[int], count: int = 5, transport: bool = True
    ) -> dict[int, list[list[str]]]:
        """Returns the most probable tokens at each token of a text.

        Args:
          text: a text of at least one token, no longer than the model's context.
          blocks: the blocks to read after.
          count: number of tokens to return.
          transport: False reads with the logit lens.

        Returns:
          The labels for each block and each token of the text, the most probable first.

        Raises:
          ValueError: the text has no token, or the lens has no such block.
        """
        model, labels = self.lm.model, self.lm.labels()
        tokens = self.lm.tokenise([text])[0]
        if not len(tokens):
            raise ValueError("the text has no token; give one with letters.")
        states, found = _states(model, _window(tokens)), {}
        for block in blocks:
            check_integer("a block", block, least=0, most=model.num_blocks - 1)
            read = self.log_probabilities(
                states[block], block if transport else model.num_blocks - 1
            )
            order = np.asarray(jax.lax.top_k(read, count)[1])
            found[block] = [[labels[token] for token in row] for row in order]
        return found


def fit_lens(
    lm: LM,
    texts: Texts,
    folder: AnyPath | Folder,
    windows: int = 16,
    context: int = 128,
    first: int = 16,
    outliers: str = "drop",
    seed: int = 0,
) -> Lens:
    """Fits the lens of every block to documents, or goes on with the fit in a folder.

    A window is the start of a document. One window and `CHUNK` set the memory. The sums are written
    after each window: a killed process loses one window, and the next run ends with the same bits.

    Args:
      lm: the model.
      texts: the documents; those with fewer tokens than a window are left out.
      folder: where the sums are kept, a path or the URL of a folder in a bucket.
      windows: how many to average; a folder with more keeps them all.
      context: number of tokens in a window.
      first: how many places at the start of a window are left out.
      outliers: "drop" leaves out tokens whose norm after a block is beyond ten times the median of
        their window; "keep" treats them like other tokens, as published lenses do.
      seed: draws the order of the documents.

    Returns:
      The lens.

    Raises:
      ValueError: an argument is out of range, too few documents are as long as a window, or the
        folder holds another lens.
      OSError: the folder cannot be written to.
    """
    check_integer("windows", windows, least=1)
    check_integer("first", first, least=0)
    check_integer("context", context, least=first + 2, most=lm.model.context)
    check_choice("outliers", outliers, ("drop", "keep"))
    folder = Folder(folder)
    about = {
        "form": FORM,
        "model": lm.name,
        "identity": lm.identity,
        "text": digest(map(np.array, texts.texts)),
        "context": int(context),
        "first": int(first),
        "outliers": outliers,
        "seed": int(seed),
    }
    # The last token of a window changes no earlier one and is not averaged.
    long = (
        row[: context - 1] for _, row in texts.shuffled(lm.tokenise, seed) if len(row) >= context
    )
    drawn = list(itertools.islice(long, windows))
    if len(drawn) < windows:
        raise ValueError(
            f"{len(drawn)} documents have {context} tokens, too few for {windows} windows; give "
            "more text, or lower windows or context."
        )
    blocks, dim = lm.model.num_blocks - 1, lm.model.dim
    sums, squares = np.zeros((blocks, dim, dim), np.float32), np.zeros(blocks, np.float32)
    done = 0
    if folder.exists(_FILE):
        sums, squares, done = _read(folder, lm, about)
    with progress.line(windows, "averaged", unit="windows") as line:
        for number, tokens in enumerate(drawn):
            if number >= done:
                found = _of_window(lm.model, tokens, first, outliers == "drop")
                sums, squares = sums + found, squares + np.square(found).sum(axis=(1, 2))
                note = about | {"windows": number + 1}
                folder.write(_FILE, trees.dump((sums, squares), note))
            line.update(1)
    return open_lens(folder, lm)


def open_lens(path: AnyPath | Folder, lm: LM) -> Lens:
    """Opens a lens of a model.

    Args:
      path: a folder that `fit_lens` wrote, or a file in the form of anthropics/jacobian-lens, such
        as <model>/jlens/<text>/<model>_jacobian_lens.pt of neuronpedia/jacobian-lens.
      lm: the model.

    Raises:
      ValueError: there is no lens, it is damaged, or it is of another model.
    """
    if str(path).endswith(".pt"):
        return _open_published(pathlib.Path(os.path.expanduser(str(path))), lm)
    folder = Folder(path)
    if not folder.exists(_FILE):
        raise ValueError(
            f"{folder} holds no lens; give a folder that fit_lens wrote, or a published .pt file."
        )
    sums, squares, count = _read(folder, lm, {"model": lm.name, "identity": lm.identity})
    # The part of the windows' variance that remains in their mean.
    lengths = np.square(sums, dtype=np.float64).sum(axis=(1, 2)) / count
    left = np.maximum(squares - lengths, 0) / max(1, count - 1)
    # The squared length of the mean contains that part too.
    true = np.maximum(lengths - left, np.finfo(float).tiny)
    errors = dict(enumerate(np.sqrt(left / true))) if count > 1 else {}
    return Lens(lm, dict(enumerate(sums / np.float32(count))), count, errors)


def holds_lens(path: AnyPath | Folder) -> bool:
    """Tells whether a path has a lens for `open_lens`."""
    if not str(path).endswith(".pt"):
        return Folder(path).exists(_FILE)
    # The reader of such a file names its other faults.
    with contextlib.suppress(Exception):
        return "J" in map_pt(pathlib.Path(os.path.expanduser(str(path))))
    return False


def _read(folder: Folder, lm: LM, about: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the sums of J_l and of its squared length over windows, and the number of windows."""
    try:
        content = folder.read(_FILE)
        note = trees.read_note(content)
        count = int(note["windows"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_DAMAGED.format(folder, brief(error))) from error
    for name, value in about.items():
        if note.get(name) != value:
            raise ValueError(
                f"{folder} holds a lens of {name} {note.get(name)}, not {value}; give that, or "
                "another folder, or remove it."
            )
    blocks, dim = lm.model.num_blocks - 1, lm.model.dim
    try:
        like = np.empty((blocks, dim, dim), np.float32), np.empty(blocks, np.float32)
        sums, squares = map(np.asarray, trees.load(content, like))
    except ValueError as error:
        raise ValueError(_DAMAGED.format(folder, brief(error))) from error
    return sums, squares, count


def _open_published(path: pathlib.Path, lm: LM) -> Lens:
    with reading(path, "a Jacobian lens"):
        held = map_pt(path)
        found = {int(block): np.asarray(matrix, np.float32) for block, matrix in held["J"].items()}
        windows = int(held["n_prompts"])
    dim, last = lm.model.dim, lm.model.num_blocks - 1
    for block, matrix in sorted(found.items()):
        if matrix.shape != (dim, dim) or not 0 <= block < last:
            raise ValueError(
                f"{path} has a matrix of shape {matrix.shape} for block {block}, but {lm.name} has "
                f"{dim} dimensions and {last + 1} blocks; give a lens of this model."
            )
        if not np.isfinite(matrix).all():
            raise ValueError(f"{path} is not finite at block {block}; download it again.")
    return Lens(lm, found, windows, {})


def _window(tokens: Int[np.ndarray, " length"]) -> Windows:
    row = jnp.asarray(tokens)[None]
    return Windows(row, jnp.zeros_like(row), jnp.arange(len(tokens))[None])


def _of_window(model, tokens, first, drop, kind=ROUNDED) -> Float[np.ndarray, "blocks dim dim"]:
    """Returns J_l of all blocks but the last."""
    windows, counted = _window(tokens), np.arange(len(tokens)) >= first
    if drop:
        for state in np.asarray(_states(model, windows)):
            counted[find_outliers(norms(state)).rows] = False
    if not counted.any():
        raise ValueError("all tokens of a window are outliers; raise context, or keep outliers.")
    rows = _rows(model, windows, jnp.asarray(counted, jnp.float32), kind)
    return np.asarray(rows).transpose(1, 0, 2)[:-1]


@eqx.filter_jit
def _states(model: LanguageModel, windows: Windows) -> Float[Array, "blocks length dim"]:
    """Returns the residual stream of one window after each block."""
    step = model.block_step(windows)

    def following(hidden, block):
        hidden = step(hidden, block)
        return hidden, hidden[0]

    return jax.lax.scan(following, model.embed(windows), model.blocks)[1]


def _rounding(kind):
    """Returns `product` with a derivative that rounds both factors; the matrix gets none."""

    def back(right, change):
        factors = change.astype(kind), right.T.astype(kind)
        return jnp.matmul(
            *factors, precision=jax.lax.Precision.HIGHEST, preferred_element_type=change.dtype
        ), None

    rounded = jax.custom_vjp(product)
    rounded.defvjp(lambda left, right: (product(left, right), right), back)
    return rounded


@eqx.filter_jit
def _rows(
    model: LanguageModel, windows: Windows, counted: Float[Array, " length"], kind: DTypeLike
) -> Float[Array, "dim blocks dim"]:
    """Returns each row of J of every block; `counted` is 1 in V and 0 elsewhere."""
    step = model.block_step(windows, _rounding(kind))
    share = (counted / counted.sum())[:, None]

    def total(shifts):
        def shifted(hidden, block_and_shift):
            block, shift = block_and_shift
            return step(hidden, block) + share * shift, None

        start = model.embed(windows)
        return counted @ jax.lax.scan(shifted, start, (model.blocks, shifts))[0][0]

    own = model.unembedding.dtype
    pull = jax.vjp(total, jnp.zeros((model.num_blocks, model.dim), own))[1]
    return jax.lax.map(lambda row: pull(row)[0], jnp.eye(model.dim, dtype=own), batch_size=CHUNK)

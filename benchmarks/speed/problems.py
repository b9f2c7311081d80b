"""The problems that coders are timed on: signals and a dictionary of some world, and a weight."""

import dataclasses
from typing import NamedTuple

import numpy as np

from benchmarks import cli
from sae_gap.core.types import Setting
from sae_gap.saes.decoders import read_matrix


class Files(NamedTuple):
    """The user's own arrays: activations `(n, input_dim)` and a dictionary
    `(input_dim, num_latents)`.
    """

    activations: np.ndarray
    dictionary: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cell:
    """One problem: signals of some world, and a weight.

    Args:
      num_latents: atoms.
      sparsity: atoms that each signal is made of; of no matter with the user's own.
      num_samples: signals.
      lam: weight of the l1 norm.
      world: `paper`, independent Gaussian atoms; `coherent`, see `coherent`; or `own`, the user's
        files.
      input_dim: dimensions; None takes the paper's.
      lam_fraction: weight as a fraction of the median λ_max of the signals, instead of `lam`.
    """

    num_latents: int = 1_000
    sparsity: int = 10
    num_samples: int = 2_500
    lam: float = 0.1
    world: str = "paper"
    input_dim: int | None = None
    lam_fraction: float | None = None


class Problem(NamedTuple):
    """What a coder is given.

    Attributes:
      signals: `(n, input_dim)`, float32.
      dictionary: `(input_dim, num_latents)`, float32, atoms of unit norm as columns.
      lam: weight of the l1 norm.
    """

    signals: np.ndarray
    dictionary: np.ndarray
    lam: float

    def first(self, count: int) -> "Problem":
        """The same problem of fewer signals."""
        return self._replace(signals=self.signals[:count])


# What is timed unless someone asks for a cell of their own.
TABLE = (
    Cell(),
    Cell(num_latents=100),
    Cell(num_latents=10_000, num_samples=500),
    *(Cell(sparsity=sparsity) for sparsity in (2, 5, 50, 100)),
    *(Cell(lam=lam) for lam in (0.01, 0.001)),
    *(Cell(num_samples=count) for count in (100, 1)),
    *(
        Cell(num_latents, sparsity, 200, world="coherent", lam_fraction=fraction)
        for num_latents, sparsity in ((3_072, 32), (6_144, 40))
        for fraction in (0.2, 0.05, 0.02)
    ),
)
WIDE = Cell(16_384, 100, 100, world="coherent", input_dim=2_304, lam_fraction=0.1)


def draw(cell: Cell, files: Files | None = None) -> Problem:
    """The problem of a cell, with a fraction of λ_max turned into a weight.

    Args:
      cell: what to draw.
      files: what `world="own"` is made of.

    Raises:
      UsageError: at the weight every code is zero.
    """
    if files is None:
        signals, dictionary = WORLDS[cell.world](cell)
    else:
        signals = files.activations[: cell.num_samples]
        dictionary = np.ascontiguousarray(
            files.dictionary / np.linalg.norm(files.dictionary, axis=0)
        )
    # The weight at which the code of each signal vanishes, a few signals at a time.
    starts = range(0, len(signals), 100)
    tops = np.concatenate(
        [(signals[start : start + 100] @ dictionary).max(axis=1) for start in starts]
    )
    lam = cell.lam
    if cell.lam_fraction is not None:
        lam = cell.lam_fraction * float(np.median(tops))
    if lam >= tops.max():
        flag = "--lam" if cell.lam_fraction is None else "--lam_fraction"
        raise cli.UsageError(
            f"λ = {lam:.3g} is not below {tops.max():.3g}, the largest λ_max of the samples, and "
            f"leaves no code; lower {flag}."
        )
    return Problem(signals, dictionary, lam)


def paper(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Signals and dictionary of the paper's model; codes are drawn without storing a matrix of
    them.
    """
    input_dim = (
        cell.input_dim
        or Setting(cell.num_latents, cell.sparsity, max(4, cell.num_samples)).input_dim
    )
    assert input_dim is not None  # Setting fills it in.
    rng = np.random.default_rng(0)
    atoms = _unit(rng.standard_normal((cell.num_latents, input_dim), dtype=np.float32))
    signals = [
        rng.uniform(size=cell.sparsity).astype(np.float32) @ atoms[active]
        for active in _active(cell, rng)
    ]
    return np.stack(signals), np.ascontiguousarray(atoms.T)


def _active(cell: Cell, rng: np.random.Generator) -> list[np.ndarray]:
    """The atoms of each signal."""
    return [
        rng.choice(cell.num_latents, cell.sparsity, replace=False) for _ in range(cell.num_samples)
    ]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def coherent(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Signals and dictionary in the manner of a trained SAE: atoms in clusters of 16, two of a
    cluster at a cosine of about .5.

    An atom is `N(0, I)` plus its cluster's own `N(0, I)`, of unit norm; a signal has `sparsity`
    atoms at random with exponential codes, 5 % of noise, and unit norm.
    """
    rng = np.random.default_rng(0)
    input_dim = cell.input_dim or max(1, cell.num_latents // 8)
    centres = rng.standard_normal((-(-cell.num_latents // 16), input_dim), dtype=np.float32)
    atoms = np.repeat(centres, 16, axis=0)[: cell.num_latents]
    atoms = _unit(atoms + rng.standard_normal(atoms.shape, dtype=np.float32))
    clean = np.stack(
        [rng.exponential(size=cell.sparsity) @ atoms[active] for active in _active(cell, rng)]
    )
    noise = _unit(rng.standard_normal(clean.shape))
    signals = _unit(_unit(clean) + 0.05 * noise)
    return signals.astype(np.float32), np.ascontiguousarray(atoms.T)


WORLDS = {"paper": paper, "coherent": coherent}


def load(activations: str, dictionary: str) -> Files:
    """Reads the two .npy files that --activations and --dictionary name.

    Raises:
      UsageError: a file cannot be read, does not fit the other, or has an atom of zeros.
    """
    with cli.usage():
        files = Files(read_matrix(activations), read_matrix(dictionary))
    if files.activations.shape[1] != files.dictionary.shape[0]:
        raise cli.UsageError(
            f"--activations has rows of {files.activations.shape[1]} numbers and --dictionary "
            "columns of "
            f"{files.dictionary.shape[0]}; give activations (n, input_dim) and a dictionary "
            "(input_dim, num_latents)."
        )
    zeros = int(np.sum(~files.dictionary.any(axis=0)))
    if zeros:
        raise cli.UsageError(f"--dictionary has {zeros} columns of zeros; remove them.")
    return files

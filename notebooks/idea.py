"""The idea of this suite in one file: what does an SAE lose by its encoder, and what by the rest?

The encoder guesses codes z in one pass, and the SAE explains an activation x by D z + b. We keep
the dictionary D and improve the codes twice: first their values, on the latents that the encoder
chose, then the choice of latents, by a pursuit with as many. What each step gains is the encoder's
loss; the rest is what the best codes at hand leave.

  python notebooks/idea.py params.npz activations.npy [k]

`params.npz` holds W_enc (d, n), b_enc (n), W_dec (n, d) and b_dec (d), and for a JumpReLU SAE its
threshold (n); the encoder reads x - b_dec. `activations.npy` is (rows, d). With k the encoder keeps
the k largest codes of a row.
"""

import sys

import numpy as np
from scipy.optimize import nnls


def encode(
    x: np.ndarray, sae: dict[str, np.ndarray], k: int | None = None
) -> np.ndarray:
    """The SAE's own codes: an affine map, then ReLU, JumpReLU or TopK."""
    codes = np.maximum((x - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"], 0)
    if "threshold" in sae:
        codes[codes <= sae["threshold"]] = 0
    if k is not None:
        smallest = np.argsort(-codes, axis=1)[:, k:]
        np.put_along_axis(codes, smallest, 0, axis=1)
    return codes


def refit(target: np.ndarray, atoms: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The codes z ≥ 0 on the given latents of each row that minimise ‖x - b - D z‖²."""
    codes = np.zeros(support.shape)
    for row, y, on in zip(codes, target, support, strict=True):
        if on.any():
            row[on] = nnls(atoms[on].T, y)[0]
    return codes


def pursue(target: np.ndarray, atoms: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The latents of an orthogonal matching pursuit, which takes `counts` latents in each row: each
    is the one most correlated with what least squares on the earlier ones leaves.
    """
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    support = np.zeros((len(target), len(atoms)), bool)
    for on, y, count in zip(support, target, counts, strict=True):
        rest = y
        for _ in range(count):
            on[np.argmax(np.where(on, -np.inf, unit @ rest))] = True
            rest = y - unit[on].T @ np.linalg.lstsq(unit[on].T, y, rcond=None)[0]
    return support


def split(
    x: np.ndarray, sae: dict[str, np.ndarray], k: int | None = None
) -> dict[str, float]:
    """Splits the fraction of variance unexplained, Σ‖x - x̂‖² / Σ‖x - x̄‖², into its parts."""
    target = x - sae["b_dec"]
    atoms = sae["W_dec"]
    own = encode(x, sae, k)
    refitted = refit(target, atoms, own > 0)
    best = refit(target, atoms, pursue(target, atoms, (own > 0).sum(axis=1)))
    variance = np.square(x - x.mean(axis=0)).sum()
    fvu = [
        np.square(target - codes @ atoms).sum() / variance
        for codes in (own, refitted, best)
    ]
    return {
        "own": fvu[0],
        "values": fvu[0] - fvu[1],
        "support": fvu[1] - fvu[2],
        "rest": fvu[2],
    }


if __name__ == "__main__":
    arrays = dict(np.load(sys.argv[1]))
    rows = np.load(sys.argv[2]).astype(float)
    for name, loss in split(
        rows, arrays, int(sys.argv[3]) if sys.argv[3:] else None
    ).items():
        print(f"{name:8} {loss:.4f}")

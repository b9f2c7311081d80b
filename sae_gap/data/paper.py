"""Where samples come from: the paper's generative model, or a file that the user brings."""

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from sae_gap.core.checks import check_path, check_seed, check_size, check_type
from sae_gap.core.codes import DENSE_LATENTS, Codes
from sae_gap.core.types import Setting, Split, Task
from sae_gap.data.worlds import World

# Bounds the numbers held at once while supports and dictionaries are drawn.
_DRAWS_AT_ONCE = 4_000_000
# Few enough for the codes and signals of a piece to stay in cache.
_SAMPLES_AT_ONCE = 10_000


def draw(setting: Setting | World) -> Task:
    """Draws a task from the generative model: `y = A z`, with k active latents uniform on (0, 1); or from a world.

    The atoms are i.i.d. Gaussian directions. An in-distribution sample is, by a fair coin, either latent 0 with k - 1 latents
    of the ID pool, or k latents other than latent 0; an out-of-distribution sample is latent 0 with k - 1 latents of the OOD
    pool, a co-activation that training never shows. The dictionary depends on the seed and the dimensions alone, so a sweep
    over `num_samples` or `noise_db` keeps it, and a stream has it too.

    Args:
      setting: the cell to draw, its seed included. Of a `World`, see there.

    Returns:
      A task with `num_samples // 2` training samples, the rest of the ID samples for validation, and `num_samples // 2` OOD
      samples. Of a stream, `num_samples` training signals without codes, and at most 2,500 samples in each other split. Codes
      of more than 20,000 latents are `Codes`, which hold the active columns alone.

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744, section 3.
    """
    check_type("setting", setting, (Setting, World), "give sae_gap.Setting(num_latents, sparsity) or a world")
    if isinstance(setting, World):
        return setting.task()
    id_rng, ood_rng, noise_rng = (np.random.default_rng([setting.seed, stream]) for stream in range(1, 4))
    num_train, num_scored = setting.num_train, setting.num_scored
    first_ood = setting.num_latents - setting.num_ood
    id_supports = _draw_id_supports(setting, num_scored if setting.stream else setting.num_samples, id_rng)
    ood_supports = _with_latent_zero(setting, num_scored, first_ood, setting.num_ood, ood_rng)
    active = np.unique(np.concatenate([id_supports.ravel(), ood_supports.ravel()]))
    dictionary, atoms = _draw_dictionary(setting, active)
    id_signals, id_codes = _draw_samples(setting, active, atoms, id_supports, id_rng, noise_rng)
    ood_split = Split(*_draw_samples(setting, active, atoms, ood_supports, ood_rng, noise_rng))
    if setting.stream:
        train = Split(jnp.asarray(Stream(setting, dictionary)(0, num_train)))
        id_split = Split(id_signals, id_codes)
    else:
        train = Split(id_signals[:num_train], id_codes[:num_train])
        id_split = Split(id_signals[num_train:], id_codes[num_train:])
    padding = 0 if setting.padded_dim is None else setting.padded_dim - dictionary.shape[0]
    train, id_split, ood_split = (_pad(split, padding) for split in (train, id_split, ood_split))
    return Task(
        train=train,
        id=id_split,
        ood=ood_split,
        dictionary=jnp.asarray(np.pad(dictionary, ((0, padding), (0, 0))) if padding else dictionary),
        width=setting.width or setting.num_latents,
        seed=setting.seed,
        padding=padding,
    )


def _draw_dictionary(setting: Setting, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The dictionary in the default float type, and the atoms of the active latents as rows, in float64.

    It is drawn twice, rows by rows, first for the lengths of the atoms: a million of them in float64 are gigabytes.
    """
    input_dim = cast(int, setting.input_dim)  # A setting fills it in.
    rows = max(1, _DRAWS_AT_ONCE // setting.num_latents)

    def pieces():
        rng = np.random.default_rng([setting.seed, 0])
        for start in range(0, input_dim, rows):
            yield slice(start, start + rows), rng.standard_normal((min(rows, input_dim - start), setting.num_latents))

    squares = np.zeros(setting.num_latents)
    for _, piece in pieces():
        for row in piece:
            squares += row * row
    lengths = np.sqrt(squares)
    dictionary = np.empty((input_dim, setting.num_latents), jnp.zeros(()).dtype)
    atoms = np.empty((len(active), input_dim))
    for place, piece in pieces():
        piece /= lengths
        dictionary[place] = piece
        atoms[:, place] = piece[:, active].T
    return dictionary, atoms


def _pad(split: Split, padding: int) -> Split:
    return Split(jnp.pad(split.signals, ((0, 0), (0, padding))), split.codes) if padding else split


def _draw_id_supports(setting: Setting, n: int, rng: np.random.Generator) -> np.ndarray:
    heads = rng.random(n) < 0.5
    with_zero = _with_latent_zero(setting, n, 1, setting.num_latents - setting.num_ood - 1, rng)
    without_zero = 1 + _distinct(n, setting.sparsity, setting.num_latents - 1, rng, _ranked_below(setting))
    return np.where(heads[:, None], with_zero, without_zero)


def _with_latent_zero(setting: Setting, n: int, first: int, size: int, rng: np.random.Generator) -> np.ndarray:
    others = first + _distinct(n, setting.sparsity - 1, size, rng, _ranked_below(setting))
    return np.concatenate([np.zeros((n, 1), others.dtype), others], axis=1)


def _ranked_below(setting: Setting) -> int:
    # Redrawing pays down to a multiple of 1; settings that are no streams keep the draws they have always had.
    return 1 if setting.stream else 10


def _distinct(n: int, k: int, size: int, rng: np.random.Generator, ranked_below: int = 10) -> np.ndarray:
    """Uniformly random k-subsets of range(size), n of them, one a row; ranked where size is at most so many times k²."""
    if k == 0:
        return np.zeros((n, 0), np.int64)
    if size > ranked_below * k * k:
        # Duplicates are rare here, so redrawing the rows that have one is cheaper than ranking `size` uniforms a row.
        subsets = rng.integers(size, size=(n, k))
        while True:
            ordered = np.sort(subsets, axis=1)
            clash = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
            if not clash.size:
                return subsets
            subsets[clash] = rng.integers(size, size=(clash.size, k))
    rows = max(1, _DRAWS_AT_ONCE // size)
    chunks = [rng.random((min(rows, n - start), size)) for start in range(0, n, rows)]
    return np.concatenate([chunk.argpartition(k - 1, axis=1)[:, :k] for chunk in chunks])


def _draw_samples(
    setting: Setting, active: np.ndarray, atoms: np.ndarray, supports: np.ndarray, rng, noise_rng
) -> tuple[jax.Array, Any]:
    """Signals and codes, given which latents are on; `atoms` are those of the latents `active`, as rows."""
    n, k = supports.shape
    values = rng.uniform(size=(n, k)).astype(jnp.zeros(()).dtype)
    places = np.searchsorted(active, supports)
    signals = np.zeros((n, atoms.shape[1]))
    for column in range(k):
        signals += values[:, column, None] * atoms[places[:, column]]
    if setting.noise_db is not None:
        scale = np.sqrt(np.mean(signals**2)) * 10 ** (-setting.noise_db / 20)
        signals += scale * noise_rng.standard_normal(signals.shape)
    sparse_codes = setting.num_latents > DENSE_LATENTS
    codes = np.zeros((n, len(active) if sparse_codes else setting.num_latents), values.dtype)
    np.put_along_axis(codes, places if sparse_codes else supports, values, axis=1)
    held = Codes(codes, active, setting.num_latents)[:] if sparse_codes else jnp.asarray(codes)
    return jnp.asarray(signals, values.dtype), held


class Stream:
    """The training signals of a stream, drawn when they are asked for: a source for `fit_stream`, of any length.

    Calling it with `(start, count)` gives the `count` signals from number `start` on, `(count, input_dim)`, the same ones
    whenever and in whatever pieces they are asked for. Those of `draw` are the first of them. Noise is as loud as the first
    10,000 signals ask for.

    Args:
      setting: with `stream`.
      dictionary: that of the setting, `(input_dim, num_latents)`, if it has been drawn already.

    Raises:
      ValueError: the setting is no stream.
    """

    def __init__(self, setting: Setting, dictionary: np.ndarray | None = None):
        if not setting.stream:
            raise ValueError("the setting is no stream; give it stream=True.")
        self._setting = setting
        self.dictionary = _draw_dictionary(setting, np.zeros(0, int))[0] if dictionary is None else dictionary
        self._atoms = np.ascontiguousarray(self.dictionary.T, jnp.zeros(()).dtype)
        self._last, self._scale = (-1, np.empty((0, 0))), 0.0
        if setting.noise_db is not None:
            self._scale = float(np.sqrt(np.mean(self._piece(0) ** 2))) * 10 ** (-setting.noise_db / 20)
            self._last = (-1, np.empty((0, 0)))

    def __call__(self, start: int, count: int) -> np.ndarray:
        found = np.empty((count, self._atoms.shape[1]), self._atoms.dtype)
        done = 0
        while done < count:
            index, first = divmod(start + done, _SAMPLES_AT_ONCE)
            if self._last[0] != index:
                self._last = (index, self._piece(index))
            rows = self._last[1][first : first + count - done]
            found[done : done + len(rows)] = rows
            done += len(rows)
        return found

    def _piece(self, index: int) -> np.ndarray:
        setting, dtype = self._setting, self._atoms.dtype
        rng = np.random.default_rng([setting.seed, 4, index])
        supports = _draw_id_supports(setting, _SAMPLES_AT_ONCE, rng)
        ends = np.arange(0, supports.size + 1, setting.sparsity)
        values = rng.random(supports.size, dtype)
        codes = sparse.csr_array((values, supports.ravel(), ends), (_SAMPLES_AT_ONCE, setting.num_latents))
        signals = codes @ self._atoms
        if self._scale:
            signals += dtype.type(self._scale) * rng.standard_normal(signals.shape, dtype)
        return signals


def load(path: str | pathlib.Path, *, width: int | None = None, seed: int = 0) -> Task:
    """Reads a task from an .npz file of activations.

    The file holds `Y_train`, `Y_val` and `Y_ood` (samples as rows) and optionally the truth: `Z_train`, `Z_val`, `Z_ood`
    (codes, samples as rows) and `A` (the dictionary, input_dim x num_latents). Pickled arrays are refused, never loaded.

    Args:
      path: the file.
      width: atoms of the dictionaries to learn; None takes as many as the truth has.
      seed: seeds the learners.

    Returns:
      The task, in the default float type. What the file does not say of the truth is None.

    Raises:
      ValueError: the file cannot be read as such a task, or an argument is out of range; the message names the fault and the
        mend.
    """
    check_path("path", path)
    if width is not None:
        check_size("width", width)
    check_seed(seed)
    arrays = _read_arrays(pathlib.Path(path))
    for name in ("Y_train", "Y_val", "Y_ood"):
        if name not in arrays:
            raise ValueError(f"{path} has no array {name}; save Y_train, Y_val and Y_ood with numpy.savez.")
    arrays = {name: _check_array(path, name, array) for name, array in arrays.items()}
    _check_shapes(path, arrays)

    true_width = next((arrays[name].shape[1] for name in ("A", "Z_train", "Z_val", "Z_ood") if name in arrays), None)
    width = true_width if width is None else int(width)
    if width is None:
        raise ValueError(f"{path} holds neither codes nor a dictionary, so how many atoms to learn is unknown; give width.")

    def split(name: str) -> Split:
        codes = arrays.get(f"Z_{name}")
        signals = arrays[f"Y_{name}"]
        return Split(jnp.asarray(signals), None if codes is None else jnp.asarray(codes))

    dictionary = jnp.asarray(arrays["A"]) if "A" in arrays else None
    return Task(split("train"), split("val"), split("ood"), dictionary, width=width, seed=seed)


_NAMES = ("Y_train", "Y_val", "Y_ood", "Z_train", "Z_val", "Z_ood", "A")


def _read_arrays(path: pathlib.Path) -> Mapping[str, Any]:
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file; give the path of an .npz written by numpy.savez.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file; write it with numpy.savez.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in _NAMES}
    except Exception as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path} holds pickled objects, which are never loaded; save plain numeric arrays.") from None
        reason = " ".join(str(error).split())[:100].rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read as arrays ({reason}); write it again with numpy.savez.") from error


def _check_array(path, name: str, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} in {path} must be a non-empty matrix, but its shape is {np.shape(array)}.")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} in {path} must hold real numbers, but its type is {array.dtype}; save it as float32.")
    with np.errstate(over="ignore"):
        array = array.astype(jnp.zeros(()).dtype, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} in {path} has NaN or infinite values; drop or mend those samples.")
    return array


def _check_shapes(path, arrays: Mapping[str, np.ndarray]) -> None:
    input_dim = arrays["Y_train"].shape[1]
    for name in ("Y_val", "Y_ood"):
        if arrays[name].shape[1] != input_dim:
            raise ValueError(
                f"{name} in {path} has {arrays[name].shape[1]} columns but Y_train has {input_dim}; they must agree."
            )
    if "A" in arrays and arrays["A"].shape[0] != input_dim:
        raise ValueError(
            f"A in {path} has {arrays['A'].shape[0]} rows but the signals have {input_dim} dimensions; "
            "save it as (input, latents)."
        )
    widths = {name: arrays[name].shape[1] for name in arrays if not name.startswith("Y_")}
    if len(set(widths.values())) > 1:
        raise ValueError(f"the truth in {path} disagrees on the number of latents ({widths}); they must agree.")
    for name in ("train", "val", "ood"):
        if f"Z_{name}" in arrays and len(arrays[f"Z_{name}"]) != len(arrays[f"Y_{name}"]):
            raise ValueError(
                f"Z_{name} in {path} has {len(arrays[f'Z_{name}'])} rows but Y_{name} has {len(arrays[f'Y_{name}'])}; "
                "give one row of codes to each sample."
            )

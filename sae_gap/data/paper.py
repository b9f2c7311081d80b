"""Tasks: of the paper's generative model, whose training signals may be drawn on request, and of a
user's file, which replaces a setting of that model.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import sparse

from sae_gap.core import (
    DENSE_LATENTS,
    SEED,
    Setting,
    Split,
    Task,
    check_seed,
    check_sequence,
    check_size,
    check_type,
    option,
    settle,
    shown,
)
from sae_gap.data import fetched
from sae_gap.storage import Tensors, file_digest, reading

# The most numbers held at once while drawing supports and dictionaries.
_DRAWS_AT_ONCE = 4_000_000
# The codes and signals of a piece of a stream this small stay in cache.
_PIECE = 10_000
# The arrays of a file of a task.
_NAMES = ("Y_train", "Y_val", "Y_ood", "A", "Z_train", "Z_val", "Z_ood")


def draw(setting: Any) -> Task:
    """Draws a task from the generative model `y = A z`, with k active latents uniform on (0, 1), or
    takes that of another source of data.

    The atoms are i.i.d. Gaussian directions. An in-distribution sample has, by a fair coin, either
    latent 0 with k - 1 latents of the ID pool, or k latents other than latent 0. An
    out-of-distribution sample has latent 0 with k - 1 latents of the OOD pool, a co-activation that
    training never shows. The dictionary depends only on the seed and the dimensions, so a sweep
    over `num_samples` or `noise_db` keeps it, and so does a stream.

    Args:
      setting: the cell to draw, its seed included, or a `World` or a `Recording`.

    Returns:
      A task with `num_samples // 2` training samples, the rest of the ID samples for validation,
      and `num_samples // 2` OOD samples. A stream has `num_samples` training signals without codes,
      and at most 2,500 samples in each other split. Codes of more than 20,000 latents are a sparse
      array.

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744, section 3.
    """
    if hasattr(setting, "task"):
        return setting.task()
    check_type(
        "setting",
        setting,
        Setting,
        "give sae_gap.Setting(num_latents, sparsity) or a world",
    )
    num_train = setting.num_train
    num_scored = setting.num_scored
    *rngs, noise_rng = (
        np.random.default_rng([setting.seed, stream]) for stream in range(1, 4)
    )
    count = num_scored if setting.stream else setting.num_samples
    pool = setting.num_latents - setting.num_ood
    supports = (
        _id_supports(setting, count, rngs[0]),
        _with_latent_zero(setting, num_scored, pool, setting.num_ood, rngs[1]),
    )
    active = np.unique(np.concatenate(supports))
    dictionary, atoms = _draw_dictionary(setting, active)
    (signals, codes), ood = (
        _draw_samples(setting, active, atoms, drawn, rng, noise_rng)
        for drawn, rng in zip(supports, rngs, strict=True)
    )
    padding = (setting.padded_dim or len(dictionary)) - len(dictionary)

    def put(array, *sides):
        """Returns an array on the device; `asarray` would compile a program for each shape."""
        array = np.pad(array, sides) if padding and sides else array
        return jax.device_put(array) if isinstance(array, np.ndarray) else array

    def split(signals, codes=None):
        return Split(put(signals, (0, 0), (0, padding)), put(codes))

    if setting.stream:
        train = split(Stream(setting, dictionary)(0, num_train))
        validation = split(signals, codes)
    else:
        train, validation = (
            split(signals[part], codes[part])
            for part in (slice(num_train), slice(num_train, None))
        )
    return Task(
        train,
        validation,
        split(*ood),
        dictionary=put(dictionary, (0, padding), (0, 0)),
        width=setting.width or setting.num_latents,
        seed=setting.seed,
        padding=padding,
    )


def _draw_samples(setting, active, atoms, supports, rng, noise_rng):
    """Returns signals and codes for given supports; `atoms` has the atoms of the latents `active`,
    as rows.
    """
    n, k = supports.shape
    values = rng.uniform(size=(n, k)).astype(jnp.zeros(()).dtype)
    places = np.searchsorted(active, supports)
    signals = np.zeros((n, atoms.shape[1]))
    for column in range(k):
        signals += values[:, column, None] * atoms[places[:, column]]
    if setting.noise_db is not None:
        signals += noise_scale(signals, setting.noise_db) * noise_rng.standard_normal(
            signals.shape
        )
    codes = _sparse(values, supports, setting)
    dense = setting.num_latents <= DENSE_LATENTS
    return signals.astype(values.dtype), codes.toarray() if dense else codes


def _sparse(values, supports, setting):
    n, k = supports.shape
    content = values.ravel(), supports.ravel(), np.arange(0, supports.size + 1, k)
    return sparse.csr_array(content, (n, setting.num_latents))


class Stream:
    """A source for `fit_stream`, of any length.

    `stream(start, count)` returns the `count` signals from number `start` on, `(count, input_dim)`.
    A signal does not depend on the pieces in which it is requested, and the first ones are those of
    `draw`. The first 10,000 signals set the loudness of the noise.

    Args:
      setting: a setting with `stream`.
      dictionary: the setting's dictionary, `(input_dim, num_latents)`, if it was drawn before.

    Raises:
      ValueError: the setting is not a stream.
    """

    def __init__(self, setting: Setting, dictionary: np.ndarray | None = None):
        if not setting.stream:
            raise ValueError("the setting is no stream; give it stream=True.")
        self._setting = setting
        self.dictionary = (
            _draw_dictionary(setting, np.zeros(0, int))[0]
            if dictionary is None
            else dictionary
        )
        self._atoms = np.ascontiguousarray(self.dictionary.T, jnp.zeros(()).dtype)
        self._piece = functools.lru_cache(maxsize=1)(self._draw)
        self._noise = 0.0
        if setting.noise_db is not None:
            self._noise = noise_scale(self._draw(0), setting.noise_db)

    def __call__(self, start: int, count: int) -> np.ndarray:
        found = np.empty((count, self._atoms.shape[1]), self._atoms.dtype)
        for index, rows, place in pieces_of(start, count, _PIECE):
            found[place] = self._piece(index)[rows]
        return found

    def _draw(self, index):
        setting = self._setting
        dtype = self._atoms.dtype
        rng = np.random.default_rng([setting.seed, 4, index])
        supports = _id_supports(setting, _PIECE, rng)
        signals = (
            _sparse(rng.random(supports.shape, dtype), supports, setting) @ self._atoms
        )
        if self._noise:
            signals += dtype.type(self._noise) * rng.standard_normal(
                signals.shape, dtype
            )
        return signals


def _draw_dictionary(setting, active):
    """Draws the dictionary in the default float type, and the atoms of the active latents as rows,
    in float64.

    A million atoms in float64 take gigabytes, so it draws some rows at a time, and draws twice:
    first for the atoms' lengths.
    """
    input_dim = setting.input_dim
    rows = max(1, _DRAWS_AT_ONCE // setting.num_latents)

    def pieces():
        rng = np.random.default_rng([setting.seed, 0])
        for start in range(0, input_dim, rows):
            yield (
                slice(start, start + rows),
                rng.standard_normal(
                    (min(rows, input_dim - start), setting.num_latents)
                ),
            )

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


def _id_supports(setting, n, rng):
    """Draws the active latents of n in-distribution samples, (n, k)."""
    heads = rng.random(n) < 0.5
    with_zero = _with_latent_zero(
        setting, n, 1, setting.num_latents - setting.num_ood - 1, rng
    )
    without_zero = 1 + _distinct(
        n, setting.sparsity, setting.num_latents - 1, rng, setting.stream
    )
    return np.where(heads[:, None], with_zero, without_zero)


def _with_latent_zero(setting, n, first, size, rng):
    others = first + _distinct(n, setting.sparsity - 1, size, rng, setting.stream)
    return np.concatenate([np.zeros((n, 1), others.dtype), others], axis=1)


def _distinct(n, k, size, rng, stream=False):
    """Draws n uniformly random k-subsets of range(size), one a row."""
    if k == 0:
        return np.zeros((n, 0), np.int64)
    # If duplicates are rare, redrawing the rows that have one is cheaper than ranking `size`
    # uniforms a row, which pays from k² latents on. Settings other than streams keep the bound 10
    # k² that stored rows were drawn by.
    if size > (1 if stream else 10) * k * k:
        subsets = rng.integers(size, size=(n, k))
        while True:
            ordered = np.sort(subsets, axis=1)
            clash = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
            if not clash.size:
                return subsets
            subsets[clash] = rng.integers(size, size=(clash.size, k))
    rows = max(1, _DRAWS_AT_ONCE // size)
    chunks = (rng.random((min(rows, n - start), size)) for start in range(0, n, rows))
    return np.concatenate(
        [chunk.argpartition(k - 1, axis=1)[:, :k] for chunk in chunks]
    )


def noise_scale(signals: Float[np.ndarray, "n input_dim"], decibels: float) -> float:
    """Returns the standard deviation of noise at a signal-to-noise ratio; the power of the signals
    is their mean square.
    """
    return float(np.sqrt(np.mean(signals**2))) * 10 ** (-decibels / 20)


def pieces_of(start: int, count: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """Gives the pieces of `size` samples that hold the `count` samples from number `start` on.

    Yields:
      The number of a piece, the samples to take from it, and their place in the request.
    """
    done = 0
    while done < count:
        piece, first = divmod(start + done, size)
        taken = min(size - first, count - done)
        yield piece, slice(first, first + taken), slice(done, done + taken)
        done += taken


def load(path: str | pathlib.Path, *, width: int | None = None, seed: int = 0) -> Task:
    """Reads a task from an .npz file of activations.

    The file holds `Y_train`, `Y_val` and `Y_ood` (samples as rows) and optionally the truth:
    `Z_train`, `Z_val`, `Z_ood` (codes, samples as rows) and `A` (the dictionary, input_dim x
    num_latents). Pickled arrays are refused, never loaded.

    Args:
      path: the file, or its URL in a bucket.
      width: atoms of the dictionaries to learn; None takes the number of true ones.
      seed: seeds the learners.

    Returns:
      The task, in the default float type. Parts of the truth that the file lacks are None.

    Raises:
      ValueError: the file does not hold such a task, or an argument is out of range; the message
        names the fault and the mend.
    """
    file = fetched(path)
    if width is not None:
        check_size("width", width)
    check_seed(seed)
    dtype = jnp.zeros(()).dtype
    arrays = {}
    with (
        reading(file, "arrays in an .npz file"),
        np.load(file, allow_pickle=False) as archive,
        np.errstate(over="ignore"),
    ):
        for name in (name for name in _NAMES if name in archive):
            part = archive[name]
            arrays[name] = part.astype(dtype) if part.dtype.kind in "fiu" else part
    tensors = Tensors(file, arrays)
    input_dim = tensors.shape("Y_train")[1]
    widths = [tensors.shape(name)[1] for name in _NAMES[3:] if name in tensors]
    if not widths and width is None:
        raise ValueError(
            f"{path} holds neither codes nor a dictionary, so how many atoms to learn is unknown; "
            "give width."
        )

    def matrix(name, rows):
        return (
            jnp.asarray(tensors.take(name, rows, widths[0]))
            if name in tensors
            else None
        )

    def split(name):
        signals = tensors.take(f"Y_{name}", tensors.shape(f"Y_{name}")[0], input_dim)
        return Split(jnp.asarray(signals), matrix(f"Z_{name}", len(signals)))

    dictionary = matrix("A", input_dim)
    width = int(width or widths[0])
    return Task(
        split("train"), split("val"), split("ood"), dictionary, width=width, seed=seed
    )


@dataclasses.dataclass(frozen=True)
class Recording:
    """A user's activations that are split already; it replaces a `Setting`. `HeldOut` splits
    others.

    Args:
      path: an .npz file, as `load` reads it, or its URL.
      width: atoms of the dictionaries to learn; None takes the number of true ones.
      sparsity: k of the encoders that need one.
      seed: seeds the learners.
    """

    path: pathlib.Path
    width: int | None = option(default=None)
    sparsity: int = option(default=10)
    seed: int = option(default=0, **SEED)

    def __post_init__(self):
        object.__setattr__(self, "path", fetched(self.path))
        settle(self)

    def task(self) -> Task:
        """Returns the splits of the file, with the seed of this recording."""
        return dataclasses.replace(self._content()[0], seed=self.seed)

    def _content(self):
        modified = self.path.stat().st_mtime_ns if self.path.is_file() else 0
        return _read(self.path, self.width, modified)

    @property
    def input_dim(self) -> int:
        """Dimension of the signals."""
        return self._content()[0].input_dim

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self._content()[0].train.signals)

    def asdict(self) -> dict[str, Any]:
        """Returns the values that tell recordings apart: the content of the file, not its path."""
        task, content = self._content()
        # Those to learn, if the truth is unknown.
        known = (
            task.dictionary,
            *(split.codes for split in (task.train, task.id, task.ood)),
        )
        truth = next((part.shape[1] for part in known if part is not None), task.width)
        return ({} if truth == task.width else {"width": task.width}) | {
            "data": content,
            "num_latents": truth,
            "sparsity": self.sparsity,
            "num_samples": len(task.train.signals) + len(task.id.signals),
            "input_dim": task.input_dim,
            "seed": self.seed,
        }


@functools.lru_cache(maxsize=1)
def _read(path, width, modified):
    """Reads a task and the digest of its file, once for all seeds unless the file changes."""
    return load(path, width=width), file_digest(path)


@runtime_checkable
class Source(Protocol):
    """A source of a study's data: a `Setting`, a `World`, or anything else with a seed, a
    dimension, values that tell it from others, and `task()`.
    """

    @property
    def seed(self) -> int:
        """Seeds the learners; sources that differ only in it are fitted together."""

    @property
    def input_dim(self) -> int | None:
        """Dimension of the signals."""

    def asdict(self) -> dict[str, Any]:
        """Returns the values that decide the data, as in rows and keys."""


def check_sources(sources: Any) -> None:
    """Raises a TypeError or a ValueError unless it is a list of sources; it reads none of them."""
    check_sequence("sources", sources, object, "give settings, worlds or recordings")
    for place, source in enumerate(sources):
        if not hasattr(type(source), "asdict"):
            raise TypeError(
                f"sources[{place}] must be a setting, a world or a recording, but it is "
                f"{shown(source)}; give settings, worlds or recordings."
            )

"""The paper's generative model `y = A z`: a setting, its task, and a stream of its signals."""

from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil, log
from typing import Any, NamedTuple

import numpy as np
from jax import device_put
from jaxtyping import Float, Int
from numpy import searchsorted
from numpy.random import default_rng
from scipy.sparse import csr_array

from sae_gap.core import (
    DENSE_LATENTS,
    SEED,
    Split,
    Task,
    check_integer,
    float_type,
    option,
    set_fields,
    settle,
)
from sae_gap.data import distinct, noise_scale, pieces_of, unit_dictionary

# The codes and signals of a piece of a stream this small stay in cache.
_PIECE = 10_000
# The most samples that a split of a stream scores.
_SCORED = 2_500
# Streams of random numbers from a setting's seed.
_ATOMS = 0
_ID = 1
_OOD = 2
_NOISE = 3
_PIECES = 4

# The active latents of samples, and their magnitudes.
Supports = Int[np.ndarray, "n k"]
Magnitudes = Float[np.ndarray, "n k"]


@dataclass(frozen=True)
class Setting:
    """One cell of the paper's generative model, `y = A z`, with its seed.

    Args:
      num_latents: number of concepts.
      sparsity: number of active latents in each sample, k.
      num_samples: number of in-distribution samples, half of them for training and half for
        validation; with `stream` all for training.
      seed: seeds the dictionary, the samples and the learners.
      input_dim: dimension of the signals; None takes the compressed-sensing bound
        `max(k + 1, ceil(2 k ln(num_latents / k)))`.
      noise_db: signal-to-noise ratio in decibels of additive Gaussian noise; None draws noise-free
        signals.
      stream: whether training draws as many fresh samples as it asks for: signals alone, as the
        codes would not fit in memory.
      padded_dim: dimensions that signals and atoms are padded to with zeros, so that settings of
        several dimensions share compiled programs. Results are those without padding, except that a
        learner's random start depends on the shape. None pads nothing.
      width: atoms of the dictionaries to learn; None, which also replaces num_latents here, takes
        one for each concept.

    Raises:
      ValueError: a value is out of range, or no such data exist (the message says why).

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744.
    """

    num_latents: int = option(default=100)
    sparsity: int = option(default=10)
    num_samples: int = option(default=5_000, least=4)
    seed: int = option(default=0, **SEED)
    input_dim: int | None = option(default=None)
    noise_db: float | int | None = option(default=None, least=-200, most=200)
    stream: bool = option(default=False, rare=True)
    padded_dim: int | None = option(default=None, rare=True)
    width: int | None = option(default=None, rare=True)

    def __post_init__(self):
        settle(self)
        if self.sparsity >= self.num_latents:
            raise ValueError(
                f"sparsity must be below num_latents, but it is {self.sparsity} with "
                f"{self.num_latents} latents; lower sparsity or raise num_latents."
            )
        if self.width == self.num_latents:
            object.__setattr__(self, "width", None)
        check_width(self.sparsity, self.width)
        # Never above num_latents: 2 k ln(num_latents / k) is at most 2 num_latents / e.
        bound = ceil(2 * self.sparsity * log(self.num_latents / self.sparsity))
        input_dim = self.input_dim or max(self.sparsity + 1, bound)
        object.__setattr__(self, "input_dim", input_dim)
        if input_dim > self.num_latents:
            raise ValueError(
                f"input_dim {input_dim} is above num_latents {self.num_latents}, which leaves "
                "nothing in superposition; lower input_dim or raise num_latents."
            )
        if self.padded_dim is not None:
            check_integer("padded_dim", self.padded_dim, least=input_dim)
        # The OOD pool is never smaller than the ID pool.
        pool = self.num_latents - self.num_ood - 1
        if pool < self.sparsity - 1:
            raise ValueError(
                f"the ID pool has {pool} latents, fewer than the sparsity - 1 = "
                f"{self.sparsity - 1} that "
                "co-occur with latent 0; lower sparsity or raise num_latents."
            )

    @property
    def num_ood(self) -> int:
        """Size of the pool of latents that co-occur with latent 0 only out of distribution."""
        return self.num_latents // 2

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return self.num_samples if self.stream else self.num_samples // 2

    @property
    def num_scored(self) -> int:
        """Number of OOD samples and, for a stream, of ID samples for validation; a stream scores
        fewer than it trains on.
        """
        half = self.num_samples // 2
        return min(half, _SCORED) if self.stream else half

    @property
    def padding(self) -> int:
        """Number of dimensions that are zeros."""
        return (self.padded_dim or self.input_dim) - self.input_dim  # type: ignore[operator]

    def task(self) -> Task:
        """Draws the task, with k active latents a sample, uniform on (0, 1).

        The atoms are i.i.d. Gaussian directions. An in-distribution sample has, by a fair coin,
        either latent 0 with k - 1 latents of the ID pool, or k latents other than latent 0. An
        out-of-distribution sample has latent 0 with k - 1 latents of the OOD pool, a co-activation
        that training never shows. The dictionary depends only on the seed and the dimensions, so a
        sweep over `num_samples` or `noise_db` keeps it, and so does a stream.

        Returns:
          A task with `num_samples // 2` training samples, the rest of the ID samples for
          validation, and `num_samples // 2` OOD samples. A stream has `num_samples` training
          signals without codes, and at most 2,500 samples in each other split. Codes of more than
          20,000 latents are a sparse array.

        References:
          Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744, section 3.
        """
        id_rng = self.rng(_ID)
        ood_rng = self.rng(_OOD)
        noise_rng = self.rng(_NOISE)
        num_id = self.num_scored if self.stream else self.num_samples
        id_supports = _id_supports(self, num_id, id_rng)
        ood_supports = _ood_supports(self, ood_rng)
        active = np.unique(np.concatenate([id_supports, ood_supports]))
        dictionary, rows = _draw_dictionary(self, active)
        atoms = _Atoms(active, rows)
        signals, codes = _draw_samples(self, atoms, id_supports, id_rng, noise_rng)
        ood = _draw_samples(self, atoms, ood_supports, ood_rng, noise_rng)
        if self.stream:
            train = self._split(Stream(self, dictionary)(0, self.num_train))
            validation = self._split(signals, codes)
        else:
            half = self.num_train
            train = self._split(signals[:half], codes[:half])
            validation = self._split(signals[half:], codes[half:])
        return Task(
            train,
            validation,
            self._split(*ood),
            dictionary=_put(dictionary, (self.padding, 0)),
            width=self.width or self.num_latents,
            seed=self.seed,
            padding=self.padding,
        )

    def rng(self, *stream: int) -> np.random.Generator:
        """The generator of a stream of random numbers."""
        return default_rng([self.seed, *stream])

    def _split(self, signals: np.ndarray, codes: Any = None) -> Split:
        return Split(_put(signals, (0, self.padding)), _put(codes))

    def asdict(self) -> dict[str, Any]:
        """Returns the values that tell settings apart, as in rows and keys."""
        return set_fields(self)


def check_width(sparsity: int, width: int | None) -> None:
    """Refuses dictionaries with no more atoms than a sample has active latents."""
    if width is not None and sparsity >= width:
        raise ValueError(
            f"sparsity must be below width, but it is {sparsity} with {width} atoms; lower "
            "sparsity or raise width."
        )


class _Atoms(NamedTuple):
    """The atoms of the latents that some sample has.

    Attributes:
      latents: the latents, ascending.
      rows: their atoms, in float64.
    """

    latents: Int[np.ndarray, " m"]
    rows: Float[np.ndarray, "m input_dim"]

    def decode(
        self, values: Magnitudes, supports: Supports
    ) -> Float[np.ndarray, "n input_dim"]:
        """The signals of codes."""
        places = searchsorted(self.latents, supports)
        signals = np.zeros((len(values), self.rows.shape[1]))
        for column in range(supports.shape[1]):
            signals += values[:, column, None] * self.rows[places[:, column]]
        return signals


def _put(array: Any, padding: tuple[int, int] = (0, 0)) -> Any:
    """Returns an array on the device, with zeros after its rows and its columns; `asarray` would
    compile a program for each shape. What is no array stays.
    """
    if any(padding):
        array = np.pad(array, [(0, zeros) for zeros in padding])
    return device_put(array) if isinstance(array, np.ndarray) else array


def _draw_samples(
    setting: Setting,
    atoms: _Atoms,
    supports: Supports,
    rng: np.random.Generator,
    noise_rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "n input_dim"], Any]:
    """Returns signals and codes of given supports."""
    values = rng.uniform(size=supports.shape).astype(float_type())
    signals = atoms.decode(values, supports)
    if setting.noise_db is not None:
        scale = noise_scale(signals, setting.noise_db)
        signals += scale * noise_rng.standard_normal(signals.shape)
    codes = _sparse(values, supports, setting)
    if setting.num_latents <= DENSE_LATENTS:
        codes = codes.toarray()
    return signals.astype(values.dtype), codes


def _sparse(values: Magnitudes, supports: Supports, setting: Setting) -> csr_array:
    n, k = supports.shape
    content = values.ravel(), supports.ravel(), np.arange(0, supports.size + 1, k)
    return csr_array(content, (n, setting.num_latents))


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
        if dictionary is None:
            dictionary, _ = _draw_dictionary(setting, np.zeros(0, int))
        self.dictionary = dictionary
        self._atoms = np.ascontiguousarray(self.dictionary.T, float_type())
        self._piece = lru_cache(maxsize=1)(self._draw)
        self._noise = 0.0
        if setting.noise_db is not None:
            self._noise = noise_scale(self._draw(0), setting.noise_db)

    def __call__(self, start: int, count: int) -> np.ndarray:
        signals = np.empty((count, self._atoms.shape[1]), self._atoms.dtype)
        for index, rows, place in pieces_of(start, count, _PIECE):
            signals[place] = self._piece(index)[rows]
        return signals

    def _draw(self, index: int) -> Float[np.ndarray, "piece input_dim"]:
        setting = self._setting
        dtype = self._atoms.dtype
        rng = setting.rng(_PIECES, index)
        supports = _id_supports(setting, _PIECE, rng)
        values = rng.random(supports.shape, dtype)
        signals = _sparse(values, supports, setting) @ self._atoms
        if self._noise:
            noise = rng.standard_normal(signals.shape, dtype)
            signals += dtype.type(self._noise) * noise
        return signals


def _draw_dictionary(
    setting: Setting, active: Int[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, "input_dim N"], Float[np.ndarray, "m input_dim"]]:
    """The dictionary in the default float type, and the atoms of the active latents as rows."""
    shape = setting.input_dim, setting.num_latents
    new_rng = partial(setting.rng, _ATOMS)
    return unit_dictionary(new_rng, shape, active)  # type: ignore[arg-type]


def _id_supports(setting: Setting, n: int, rng: np.random.Generator) -> Supports:
    """Draws the active latents of n in-distribution samples, (n, k)."""
    num_latents = setting.num_latents
    k = setting.sparsity
    heads = rng.random(n) < 0.5
    pool = num_latents - setting.num_ood - 1
    with_zero = _with_latent_zero(1 + distinct(n, k - 1, pool, rng, setting.stream))
    without_zero = 1 + distinct(n, k, num_latents - 1, rng, setting.stream)
    return np.where(heads[:, None], with_zero, without_zero)


def _ood_supports(setting: Setting, rng: np.random.Generator) -> Supports:
    """Draws the active latents of the out-of-distribution samples, (n, k)."""
    n = setting.num_scored
    k = setting.sparsity
    first = setting.num_latents - setting.num_ood
    others = distinct(n, k - 1, setting.num_ood, rng, setting.stream)
    return _with_latent_zero(first + others)


def _with_latent_zero(others: Int[np.ndarray, "n others"]) -> Supports:
    return np.pad(others, [(0, 0), (1, 0)])

"""The front door: a dictionary of a user's activations that codes, scores, compares and becomes an
SAE, whose encoder is trained on the rows that the dictionary was learned from.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float

from sae_gap.core import Model, brief, check_size, evenly_spaced, relative_gap
from sae_gap.data import TENTH, Activations, HeldOut, open_activations
from sae_gap.dictionaries import (
    Export,
    Report,
    Rows,
    check_reached,
    check_sparse,
    make_report,
    open_rows,
    sae_learner,
    score_codes,
    screened,
    train_sae,
)
from sae_gap.encoders import MATCHED, Lasso
from sae_gap.measure import UNLEARNED, Plan
from sae_gap.measure import refit as least_squares
from sae_gap.runtime import progress
from sae_gap.saes import DICTIONARY, SAE, as_metadata, save_sae, write_free
from sae_gap.solvers import match_l0
from sae_gap.storage import Folder, trees

# Rows that are read and coded at once.
CHUNK = 1_024


@dataclasses.dataclass(eq=False, repr=False)
class LearnedDictionary:
    """The result of `learn` and `dictionary`: unit atoms D and a bias b, for codes `z ≥ 0` with
    `x ≈ b + D z`.

    Attributes:
      model: the dictionary and the bias, without an encoder.
      l0: the default mean L0 of codes.
      seconds: the time of learning; 0 for a given dictionary.
      parts: the rows that it was learned from, and those held out; None if it has none.
      inputs: what a transcoder reads.
      certificate: the largest duality gap of a row in the last `encode`, relative to its objective:
        no codes lower a row's lasso objective by more than this share. None before the first call.
      weights: the weights λ found for rows that were learned from, by mean L0.
    """

    model: Model
    l0: float
    seconds: float = 0.0
    parts: tuple[Activations, Activations] | None = None
    inputs: Activations | None = None
    certificate: float | None = None
    weights: dict[float, float] = dataclasses.field(default_factory=dict)

    @property
    def train(self) -> Activations:
        """The rows that it was learned from."""
        return self._parts[0]

    @property
    def held_out(self) -> Activations:
        """The rows that `learn` held out."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[Activations, Activations]:
        if not self.parts:
            raise ValueError(
                "a dictionary that was given or loaded has no rows; give activations, here or to "
                "sae_gap.LearnedDictionary.load."
            )
        return self.parts

    @property
    def atoms(self) -> Float[np.ndarray, "input_dim width"]:
        """D."""
        return np.asarray(self.model.decoder)

    @property
    def bias(self) -> Float[np.ndarray, " input_dim"]:
        """b; after `learn` it is the mean of the rows that were learned from."""
        return np.asarray(self.model.bias)

    @property
    def width(self) -> int:
        """The number of atoms."""
        return self.model.decoder.shape[1]

    def lam(self, l0: float | None = None, activations: Rows | None = None) -> float:
        """Returns the l1 weight λ that gives rows a mean L0, found on evenly spaced rows.

        The weight for the rows that were learned from is found once for each L0, so that a row's
        codes do not depend on the other rows.

        Args:
          l0: mean number of active latents; None takes `learn`'s.
          activations: as for `learn`; None takes the rows that were learned from.

        Raises:
          ValueError: no weight gives this L0.
        """
        l0 = self._sparsity(l0)
        if activations is None and l0 in self.weights:
            return self.weights[l0]
        source = self.train if activations is None else self._opened(activations)
        signals = source.take(evenly_spaced(source.num_samples, MATCHED)) - self.bias
        lam = float(match_l0(signals, self.model.decoder, l0)[0])
        if activations is None:
            self.weights[l0] = lam
        return lam

    def encode(
        self,
        activations: Rows,
        l0: float | None = None,
        *,
        refit: bool = True,
    ) -> scipy.sparse.csr_array:
        """Returns sparse codes: the support of the certified lasso at `lam(l0)`, with the lasso's
        values or those of least squares.

        The l1 norm shrinks values. Least squares over `z ≥ 0` on the lasso's own support undoes
        that, and may set some values to zero. `certificate` then proves the lasso's optimum.

        Args:
          activations: as for `learn`.
          l0: mean L0 of the lasso on the rows that were learned from or, if there are none and no
            weight was saved for it, on these rows; None takes `learn`'s.
          refit: whether to take the values of least squares; False takes the lasso's own.

        Returns:
          Codes, (n, width), a row for each of the activations, also for outliers.
        """
        rows = self._opened(activations)
        parts = []
        is_known = self.parts or self._sparsity(l0) in self.weights
        lasso = Lasso(self.lam(l0, None if is_known else rows))
        self.certificate = 0.0
        with progress.line(rows.num_samples, "encode", unit="rows") as line:
            for chunk in rows.chunks(CHUNK):
                signals = jnp.asarray(chunk)
                coded = lasso.infer(self.model, signals)
                gap = float(relative_gap(coded).max())
                self.certificate = max(self.certificate, gap)
                if refit:
                    coded = least_squares(lasso).infer(self.model, signals, coded.codes)
                parts.append(scipy.sparse.csr_array(np.asarray(coded.codes)))
                line.update(len(chunk))
        return scipy.sparse.vstack(parts, format="csr")

    def decode(self, codes: Any) -> Float[np.ndarray, "n input_dim"]:
        """Returns `b + D z` for dense or sparse codes, (n, width)."""
        return codes @ self.atoms.T + self.bias

    def fvu(
        self,
        activations: Rows | None = None,
        l0: float | None = None,
        *,
        outliers: str = "drop",
    ) -> float:
        """Returns the fraction of variance unexplained by certified codes of a mean L0, after least
        squares on their supports.

        It is `report`'s figure: it finds the weight on the very rows that it scores, so that
        figures at one L0 compare.

        Args:
          activations: as for `learn`; None takes the rows that `learn` held out.
          l0: mean L0; None takes `learn`'s.
          outliers: "drop" leaves outlier tokens out and reports them, "keep" counts them.
        """
        rows, l0 = self._asked(activations, l0, outliers)
        scores = score_codes(
            self.model,
            ["lasso", "lasso_refit"],
            l0,
            rows,
            keep_outliers=outliers == "keep",
        )
        check_reached(scores["lasso"]["l0"], l0, scores["lasso"]["num_scored"])
        return scores["lasso_refit"]["fvu"]

    def report(
        self,
        activations: Rows | None = None,
        l0: float | None = None,
        *,
        controls: Sequence[str] = ("random", "samples"),
        outliers: str = "drop",
    ) -> Report:
        """Runs `sae-gap measure` on the dictionary, on at most 5,000 rows, evenly spread.

        Args:
          activations: as for `learn`; None takes the rows that `learn` held out.
          l0: mean L0 at which dictionaries are compared; None takes `learn`'s.
          controls: dictionaries of the same width to compare it with, which learn from the rows
            that it was learned from. For a given dictionary, those that learn do so from nine
            tenths of the documents of `activations`, and the rest scores all.
          outliers: "drop" leaves outlier tokens out and reports them, "keep" counts them.
        """
        rows, l0 = self._asked(activations, l0, outliers)
        if self.parts:
            train = self.train
            held_out: Any = rows
        else:
            train = rows
            held_out = TENTH if {*controls} - UNLEARNED else rows
        source = HeldOut(train, keep_outliers=outliers == "keep", held_out=held_out)
        sae = SAE.of_model(self.model, name="learned" if self.parts else "given")
        return make_report(Plan([sae], source, l0=l0, controls=controls))

    def sae(
        self,
        k: int | None = None,
        *,
        encoder: str = "topk",
        epochs: int | None = None,
        frozen: bool = True,
        skip: bool = False,
        seed: int = 0,
        show_progress: bool = True,
    ) -> Export:
        """Trains an SAE that starts from this dictionary, on the rows that it was learned from; a
        transcoder, if `learn` had targets.

        The encoder starts as `a Dᵀ(x - b)`, with the least-squares a; see `SparseAutoencoder` and
        its `standardised`.

        Args:
          k: number of active latents; None takes `learn`'s L0.
          encoder: the name of an SAE's encoder, such as "topk", "batchtopk" or "jumprelu". With
            `frozen`, "screened_pursuit" and "batch_pursuit" have nothing to train; the threshold of
            the latter is that of the rows held out, so that other rows have k latents on average.
          epochs: passes over the rows; None takes enough for 2,000 steps, and at least one.
          frozen: whether the dictionary stays fixed; False trains it too, which reconstructs
            better.
          skip: whether a transcoder has an affine skip.
          seed: seeds the order of the rows.
          show_progress: whether to show a line of progress on a terminal or in a notebook.

        Returns:
          The SAE, with its errors.
        """
        k = max(1, round(self.l0)) if k is None else k
        check_size("k", k)
        check_sparse("k", k, *self.atoms.shape)
        k = int(k)
        learner = sae_learner(
            encoder, self, skip=skip, epochs=epochs, sparsity=k, frozen=frozen
        )
        # An impossible k is refused before an encoder is trained.
        best = self.fvu(None, k, outliers="keep")
        model, seconds = train_sae(learner, self, seed, show_progress=show_progress)
        own = score_codes(
            model, ["own"], k, self.held_out, keep_outliers=True, inputs=self.inputs
        )["own"]
        return Export(model, k, seconds, own["l0"], own["fvu"], best)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the dictionary, its bias and the weights λ found so far, without activations.

        Args:
          folder: a path or the URL of a folder in a bucket; it is made, and an earlier dictionary
            there replaced.
        """
        note = {
            "shape": self.atoms.shape,
            "dtype": str(self.model.decoder.dtype),
            "l0": self.l0,
            "seconds": self.seconds,
            "weights": list(self.weights.items()),
        }
        model = dataclasses.replace(self.model, encode=None)
        Folder(folder).write(DICTIONARY, trees.dump(model, note))

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        activations: Rows | None = None,
        **options: Any,
    ) -> "LearnedDictionary":
        """Loads a dictionary that `save` wrote.

        Args:
          folder: the folder that `save` was given.
          activations: those of `learn`, which `sae` and scores of the held-out rows need.
          **options: `documents`, `targets` and `outliers`, as given to `learn`.

        Raises:
          ValueError: there is no such dictionary.
        """
        place = Folder(folder)
        try:
            content = place.read(DICTIONARY)
            note = trees.read_note(content)
            shape = tuple(note["shape"])
            dtype = note["dtype"]
            atoms: Any = jax.ShapeDtypeStruct(shape, dtype)
            bias: Any = jax.ShapeDtypeStruct(shape[:1], dtype)
            model = trees.load(content, Model(atoms, bias))
            learned = cls(
                model, note["l0"], note["seconds"], weights=dict(note["weights"])
            )
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{place} has no learned dictionary that can be read ({brief(error)}); give the "
                "folder that save wrote."
            ) from None
        if activations is not None:
            learned.inputs, rows = open_rows(activations, **options)
            learned.parts = rows.split()
        return learned

    def save_sae(
        self,
        folder: str | os.PathLike[str],
        *,
        metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Export:
        """Writes the SAE that `sae(**options)` makes, by `sae_gap.save_sae`; SAELens loads it, if
        it has such an encoder.

        Args:
          folder: the folder to make.
          metadata: entries of the configuration, such as `model_name` and `hook_name`.
          **options: the arguments of `sae`.

        Returns:
          The SAE, with its errors.
        """
        write_free(folder)
        as_metadata(metadata)
        export = self.sae(**options)
        save_sae(export.model, folder, metadata=metadata)
        return export

    def _sparsity(self, l0: float | None) -> float:
        l0 = self.l0 if l0 is None else l0
        check_sparse("l0", l0, *self.atoms.shape)
        # JAX would trace a number of NumPy's.
        return float(l0)

    def _asked(
        self, activations: Rows | None, l0: float | None, outliers: str
    ) -> tuple[Activations, float]:
        """The rows to score, the given ones or those held out, after reporting outliers; and at
        which L0.
        """
        rows = self.held_out if activations is None else self._opened(activations)
        screened(rows, outliers)
        return rows, self._sparsity(l0)

    def _opened(self, activations: Rows) -> Activations:
        rows = open_activations(activations)
        if rows.input_dim != len(self.bias):
            raise ValueError(
                f"the activations have {rows.input_dim} dimensions, but the dictionary "
                f"{len(self.bias)}; give those of the layer that it was learned from."
            )
        return rows

"""The front door: a dictionary of a user's activations that codes, scores, compares and becomes an
SAE.
"""

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap import catalogue
from sae_gap.analysis import Comparison, compare_dictionaries, curve_lines, tables
from sae_gap.core import (
    Model,
    as_matrix,
    check_choice,
    check_number,
    check_size,
    evenly_spaced,
    relative_gap,
)
from sae_gap.data import TENTH, Activations, HeldOut, open_activations
from sae_gap.dictionaries import Rows, fit_signals, open_pair, screened
from sae_gap.encoders import DENSEST, MATCHED, BatchPursuit, Lasso, ScreenedPursuit
from sae_gap.learners import OnlineDictionary, SparseAutoencoder
from sae_gap.measure import Plan, methods_of, run, study_of
from sae_gap.measure import refit as least_squares
from sae_gap.metrics import agreement
from sae_gap.runtime import progress
from sae_gap.saes import DICTIONARY, SAE, as_metadata, check_free, has_form, save_sae
from sae_gap.solvers import match_l0
from sae_gap.storage import Folder, Row, Store, brief, trees
from sae_gap.study import Models, runner

# Names in the rows of a measurement.
LEARNED, GIVEN = "learned", "given"
# Rows that are read and coded at once, and the most rows that are scored.
CHUNK, SCORED = 1_024, 5_000
# Steps of an SAE whose epochs are not given.
STEPS = 2_000


class Report(NamedTuple):
    """The result of `LearnedDictionary.report`.

    Attributes:
      curves: a line for the dictionary and each control, from `sae_gap.measure.curve_lines`.
      best: the name of the best control; None without controls.
      lead: compares what the dictionary and that control explain.
      rows: all measured rows.
    """

    curves: list[Row]
    best: str | None
    lead: Comparison | None
    rows: list[Row]

    def __repr__(self) -> str:
        names = {
            "dictionary": "dictionary",
            "at_l0": "L0",
            "curve_fvu": "FVU, lasso",
            "curve_refit_fvu": "FVU, least squares",
            "best_fvu": "FVU, best codes",
        }
        table = tables.format_table(self.curves, names)
        return (
            table
            if self.lead is None
            else f"{table}\n\nBeside the best control, {self.best}: {self.lead}"
        )


class Export(NamedTuple):
    """An SAE made from a dictionary, and the error of its encoder on the rows that `learn` held
    out.

    Attributes:
      model: the dictionary and the encoder.
      k: the requested number of latents.
      seconds: the time of the training; 0 if there was nothing to train.
      l0: mean L0 of the encoder's codes.
      fvu: FVU of the encoder's codes.
      best_fvu: FVU of least squares on the certified supports at an L0 of k, on the learned
        dictionary.
    """

    model: Model
    k: int
    seconds: float
    l0: float
    fvu: float
    best_fvu: float

    def __repr__(self) -> str:
        scores = (
            f"FVU of its codes {self.fvu:.3f} at L0 {self.l0:.1f}, of certified codes "
            f"{self.best_fvu:.3f} at L0 {self.k}"
        )
        if not has_form(type(self.model.encode)):
            return f"{scores}; SAELens has no such encoder, sae_gap alone reads it"
        ours = isinstance(self.model.encode, ScreenedPursuit)
        return f"{scores}; SAELens reads it after import sae_gap.torch.saelens" if ours else scores


class LearnedDictionary:
    """The result of `learn` and `dictionary`: unit atoms D and a bias b, for codes `z ≥ 0` with
    `x ≈ b + D z`.

    Attributes:
      model: the dictionary and the bias, without an encoder.
      l0: the default mean L0 of codes.
      seconds: the time of learning; 0 for a given dictionary.
      certificate: the largest duality gap of a row in the last `encode`, relative to its objective:
        no codes lower a row's lasso objective by more than this share. None before the first call.
    """

    def __init__(
        self,
        model: Model,
        l0: float,
        train: Activations | None,
        held_out: Activations | None,
        seconds: float,
        inputs: Activations | None = None,
    ):
        self.model, self.l0, self.seconds = model, l0, seconds
        self._parts, self._inputs = (train, held_out), inputs
        self.certificate: float | None = None
        self._weights: dict[float, float] = {}

    @property
    def train(self) -> Activations:
        """The rows that it was learned from."""
        return self._part(0)

    @property
    def held_out(self) -> Activations:
        """The rows that `learn` held out."""
        return self._part(1)

    def _part(self, place: int) -> Activations:
        part = self._parts[place]
        if part is None:
            raise ValueError(
                "a dictionary that was given or loaded has no rows; give activations, here or to "
                "sae_gap.LearnedDictionary.load."
            )
        return part

    @property
    def _given(self) -> bool:
        """True if it has no rows of its own."""
        return self._parts[0] is None

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
        if activations is None and l0 in self._weights:
            return self._weights[l0]
        source = self.train if activations is None else self._opened(activations)
        rows = source.take(evenly_spaced(source.num_samples, MATCHED))
        lam = float(match_l0(rows - self.bias, self.model.decoder, l0)[0])
        if activations is None:
            self._weights[l0] = lam
        return lam

    def encode(
        self,
        activations: Rows,
        l0: float | None = None,
        *,
        refit: bool = True,
        show_progress: bool = True,
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
          show_progress: whether to show a line of progress on a terminal or in a notebook.

        Returns:
          Codes, (n, width), a row for each of the activations, also for outliers.
        """
        rows, parts = self._opened(activations), []
        known = not self._given or self._sparsity(l0) in self._weights
        lasso = Lasso(self.lam(l0, None if known else rows))
        self.certificate = 0.0
        with progress.line(rows.num_samples, "encode", unit="rows", shown=show_progress) as line:
            for chunk in rows.chunks(CHUNK):
                signals = jnp.asarray(chunk)
                found = lasso.infer(self.model, signals)
                self.certificate = max(self.certificate, float(relative_gap(found).max()))
                if refit:
                    found = least_squares(lasso).infer(self.model, signals, found.codes)
                parts.append(scipy.sparse.csr_array(np.asarray(found.codes)))
                line.update(len(chunk))
        return scipy.sparse.vstack(parts, format="csr")

    def decode(self, codes: ArrayLike | scipy.sparse.sparray) -> Float[np.ndarray, "n input_dim"]:
        """Returns `b + D z` for dense or sparse codes, (n, width)."""
        rows: Any = codes
        if not scipy.sparse.issparse(rows):
            rows = as_matrix("codes", rows)
        elif rows.nnz:
            as_matrix("codes", scipy.sparse.csr_array(rows).data[None])
        if rows.shape[1] != self.width:
            raise ValueError(
                f"codes must have {self.width} columns, one for each atom, but they have "
                f"{rows.shape[1]}."
            )
        return rows @ self.atoms.T + self.bias

    def fvu(
        self, activations: Rows | None = None, l0: float | None = None, *, outliers: str = "drop"
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
        rows, l0 = self._rows(activations, outliers), self._sparsity(l0)
        found = self._score(self.model, ("lasso", "lasso_refit"), l0, rows, outliers == "keep")
        _require_reached(found["lasso"]["l0"], l0, found["lasso"]["num_scored"])
        return found["lasso_refit"]["fvu"]

    def _score(
        self, model: Model, codes: Sequence[str], l0: float, rows: Activations, keep: bool
    ) -> dict[str, Row]:
        """Returns a row for each of some codes on the atoms of a model, by name.

        Args:
          model: the dictionary, and the encoder for "own".
          codes: the names of the codes.
          l0: mean L0 of codes that take one.
          rows: the rows; at most `SCORED` are scored.
          keep: whether outlier tokens count.
        """
        given = SAE.of_model(model, name=LEARNED).given
        # Only a transcoder's own codes read them, on the rows of `learn`.
        inputs = self._inputs if "own" in codes else None
        source = HeldOut(rows, samples=SCORED, keep_outliers=keep, held_out=rows, inputs=inputs)
        study = study_of("learned", [source], [*methods_of(given, codes, l0)])
        with tempfile.TemporaryDirectory() as folder:
            measured = runner.run(study, Store(folder), models=Models(), show_progress=False)
        return {row["codes"]: row for row in measured}

    def report(
        self,
        activations: Rows | None = None,
        l0: float | None = None,
        *,
        controls: Sequence[str] = ("random", "samples"),
        outliers: str = "drop",
        show_progress: bool = True,
    ) -> Report:
        """Runs `sae-gap measure` on the dictionary, on at most 5,000 rows, evenly spread.

        Args:
          activations: as for `learn`; None takes the rows that `learn` held out.
          l0: mean L0 at which dictionaries are compared; None takes `learn`'s.
          controls: dictionaries of the same width to compare it with, which learn from the rows
            that it was learned from. For a given dictionary, they learn from nine tenths of the
            documents of `activations`, and the rest scores all.
          outliers: "drop" leaves outlier tokens out and reports them, "keep" counts them.
          show_progress: whether to show a line of progress on a terminal or in a notebook.
        """
        rows, l0 = self._rows(activations, outliers), self._sparsity(l0)
        name = GIVEN if self._given else LEARNED
        train = rows if self._given else self.train
        held = TENTH if self._given and controls else rows
        source = HeldOut(train, keep_outliers=outliers == "keep", held_out=held)
        plan = Plan([SAE.of_model(self.model, name=name)], source, l0=l0, controls=controls)
        with tempfile.TemporaryDirectory() as folder:
            measured = run(plan, Store(folder), show_progress=show_progress)
        curves = curve_lines(measured)
        _require_reached(curves[0]["at_l0"], l0, curves[0]["samples"])
        if not controls:
            return Report(curves, None, None, measured)
        best = min(curves[1:], key=lambda line: line["best_fvu"])["dictionary"]
        return Report(curves, best, compare_dictionaries(measured, name, best), measured)

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
        check_choice("encoder", encoder, catalogue.saes())
        if epochs is not None:
            check_size("epochs", epochs)
        if skip and self._inputs is None:
            raise ValueError(
                "only a transcoder has a skip; give learn the targets, or leave it out."
            )
        # An impossible k is refused before an encoder is trained.
        best = self.fvu(None, k, outliers="keep")
        learner = self._learner(encoder, k, epochs, frozen, skip)
        model, seconds = self._trained(learner, seed, show_progress)
        own = self._score(model, ["own"], k, self.held_out, True)["own"]
        return Export(model, k, seconds, own["l0"], own["fvu"], best)

    def _learner(
        self, encoder: str, k: int, epochs: int | None, frozen: bool, skip: bool
    ) -> SparseAutoencoder:
        """The learner of an SAE, or of a transcoder, that starts from this dictionary."""
        options: Any = {"sparsity": k, "input_dim": len(self.bias), "frozen": frozen}
        make: Any = catalogue.sae_for_activations
        if self._inputs is not None:
            make = functools.partial(catalogue.transcoder_for_activations, skip=skip)
        # It only asks its base for the model, which is this one.
        learner = make(encoder, base=OnlineDictionary(), **options)
        if epochs is None:
            epochs = math.ceil(STEPS / math.ceil(self.train.num_pooled / learner.batch_size))
        return dataclasses.replace(learner, num_steps=epochs)

    def _trained(
        self, learner: SparseAutoencoder, seed: int, show_progress: bool
    ) -> tuple[Model, float]:
        """The SAE of a learner, and the seconds of its training."""
        encoder: Any = learner.encoder
        if learner.frozen:
            if encoder.parameters(self.model.decoder, jax.random.key(seed)) is None:
                # Matching pursuit reads only the dictionary.
                return dataclasses.replace(self.model, encode=encoder), 0.0
            if isinstance(encoder, BatchPursuit):
                # A threshold of the rows that the dictionary learned from leaves too many latents
                # on in others.
                return encoder.calibrate(self.model, jnp.asarray(self.held_out.pool())), 0.0
        rows, inputs = self.train, None
        if self._inputs is not None:
            inputs = self._inputs.take(
                rows.numbers[evenly_spaced(rows.num_samples, rows.num_pooled)]
            )
        _, model, seconds = fit_signals(
            learner,
            rows.pool(),
            self.width,
            seed,
            inputs,
            bases=[self.model],
            show_progress=show_progress,
        )
        return model, seconds

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
            "weights": list(self._weights.items()),
        }
        content = trees.dump(dataclasses.replace(self.model, encode=None), note)
        Folder(folder).write(DICTIONARY, content)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        activations: Rows | None = None,
        *,
        documents: ArrayLike | None = None,
        targets: Rows | None = None,
        outliers: str = "drop",
    ) -> "LearnedDictionary":
        """Loads a dictionary that `save` wrote.

        Args:
          folder: the folder that `save` was given.
          activations: those of `learn`, which `sae` and scores of the held-out rows need.
          documents: as given to `learn`.
          targets: as given to `learn`.
          outliers: as given to `learn`.

        Raises:
          ValueError: there is no such dictionary.
        """
        place = Folder(folder)
        try:
            content = place.read(DICTIONARY)
            note = trees.read_note(content)
            shapes = tuple(note["shape"]), tuple(note["shape"][:1])
            like: Any = [jax.ShapeDtypeStruct(shape, note["dtype"]) for shape in shapes]
            model = trees.load(content, Model(*like))
            learned = cls(model, note["l0"], None, None, note["seconds"])
            learned._weights = dict(note["weights"])
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{place} has no learned dictionary that can be read ({brief(error)}); give the "
                "folder that save wrote."
            ) from None
        if activations is not None:
            learned._inputs, opened = open_pair(activations, targets, documents)
            learned._parts = screened(opened, outliers).split()
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
        check_free(folder)
        as_metadata(metadata)
        export = self.sae(**options)
        save_sae(export.model, folder, metadata=metadata)
        return export

    def agreement(self, other: "LearnedDictionary | SAE | Model | ArrayLike") -> float:
        """Returns the mean matched |cosine| with the atoms of another dictionary of this shape; see
        `sae_gap.agreement`.
        """
        return agreement(self, other)

    def _sparsity(self, l0: float | None) -> float:
        l0 = self.l0 if l0 is None else l0
        check_sparse("l0", l0, *self.atoms.shape)
        # JAX would trace a number of NumPy's.
        return float(l0)

    def _rows(self, activations: Rows | None, outliers: str) -> Activations:
        """Returns the rows to score: the given ones, or those held out, after reporting
        outliers.
        """
        rows = self.held_out if activations is None else self._opened(activations)
        screened(rows, outliers)
        return rows

    def _opened(self, activations: Rows) -> Activations:
        rows = open_activations(activations)
        if rows.input_dim != len(self.bias):
            raise ValueError(
                f"the activations have {rows.input_dim} dimensions, but the dictionary "
                f"{len(self.bias)}; "
                "give those of the layer that it was learned from."
            )
        return rows

    def __repr__(self) -> str:
        name, size = GIVEN if self._given else LEARNED, len(self.bias)
        return f"<{self.width} atoms of {size} dimensions, {name} for an L0 of {self.l0:g}>"


def check_sparse(name: str, value: float, input_dim: int, width: int) -> None:
    """Raises a ValueError if codes with so many latents are not sparse, which no measurement
    allows.
    """
    check_number(name, value, above=0)
    most = min(DENSEST * input_dim, width - 1)
    if value > most:
        why = f"a quarter of the {input_dim} dimensions and fewer than the {width} atoms"
        raise ValueError(
            f"{name} is {value:g}, but codes are sparse only up to {most:g}, {why}; ask for less."
        )


def _require_reached(reached: float, l0: float, samples: int) -> None:
    if abs(reached - l0) > max(0.05 * l0, 1 / samples):
        raise ValueError(
            f"no weight gives codes of a mean L0 of {l0:g} on these activations, only of "
            f"{reached:.3g}; ask for less."
        )

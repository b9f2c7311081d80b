"""The front door: a dictionary of a user's activations that codes, scores, compares and becomes an
SAE, whose encoder is trained on the rows that the dictionary was learned from.
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
from absl import logging
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from sae_gap import catalogue
from sae_gap.analysis import Comparison, compare_dictionaries, curve_lines, tables
from sae_gap.core import (
    Model,
    Split,
    Task,
    check_choice,
    check_number,
    check_size,
    evenly_spaced,
    relative_gap,
)
from sae_gap.data import TENTH, Activations, HeldOut, open_activations
from sae_gap.encoders import DENSEST, MATCHED, BatchPursuit, Lasso, ScreenedPursuit
from sae_gap.learners import Learner, OnlineDictionary
from sae_gap.measure import UNLEARNED, Plan, methods_of, run, study_of
from sae_gap.measure import refit as least_squares
from sae_gap.runtime import progress
from sae_gap.saes import DICTIONARY, SAE, as_metadata, has_form, save_sae, write_free
from sae_gap.solvers import match_l0
from sae_gap.storage import Folder, Row, Store, brief, trees
from sae_gap.study import Fitted, Models, fit, runner

# Names in the rows of a measurement.
LEARNED = "learned"
GIVEN = "given"
# Rows that are read and coded at once, and the most rows that are scored.
CHUNK = 1_024
SCORED = 5_000
# Steps of an SAE whose epochs are not given.
STEPS = 2_000

Rows = Activations | ArrayLike | str | os.PathLike[str]
"""What a user gives as activations: rows, the path of a file or folder of them, or opened ones."""


def open_rows(
    activations: Rows,
    *,
    documents: ArrayLike | None = None,
    targets: Rows | None = None,
    outliers: str = "drop",
) -> tuple[Activations | None, Activations]:
    """Opens copies of what a transcoder reads, if there are targets, and of what is explained,
    without outliers if they are dropped.
    """
    inputs = None
    explained = activations
    if targets is not None:
        inputs = open_activations(activations).copied()
        explained = targets
    rows = open_activations(explained, documents=documents).copied()
    return inputs, screened(rows.with_inputs(inputs) if inputs else rows, outliers)


def screened(activations: Activations, policy: str) -> Activations:
    """Reports outliers, and returns the rows that a policy keeps."""
    check_choice("outliers", policy, ("drop", "keep"))
    if len(activations.outliers.rows):
        logging.warning(
            "%s; %s", activations.outliers, "left out" if policy == "drop" else "kept"
        )
    return activations.without_outliers() if policy == "drop" else activations


class Report(NamedTuple):
    """The result of `LearnedDictionary.report`.

    Attributes:
      curves: a line for the dictionary and each control, from `sae_gap.measure.curve_lines`.
      best: the name of the best control; None without controls.
      lead: compares what the dictionary and that control explain.
    """

    curves: list[Row]
    best: str | None
    lead: Comparison | None

    def __repr__(self) -> str:
        names = {
            "dictionary": "dictionary",
            "at_l0": "L0",
            "curve_fvu": "FVU, lasso",
            "curve_refit_fvu": "FVU, least squares",
            "best_fvu": "FVU, best codes",
        }
        table = tables.format_table(self.curves, names)
        if self.lead is None:
            return table
        return f"{table}\n\nBeside the best control, {self.best}: {self.lead}"


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
        if isinstance(self.model.encode, ScreenedPursuit):
            return f"{scores}; SAELens reads it after import sae_gap.torch.saelens"
        if has_form(type(self.model.encode)):
            return scores
        return f"{scores}; SAELens has no such encoder, sae_gap alone reads it"


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
        known = self.parts or self._sparsity(l0) in self.weights
        lasso = Lasso(self.lam(l0, None if known else rows))
        self.certificate = 0.0
        with progress.line(rows.num_samples, "encode", unit="rows") as line:
            for chunk in rows.chunks(CHUNK):
                signals = jnp.asarray(chunk)
                found = lasso.infer(self.model, signals)
                self.certificate = max(
                    self.certificate, float(relative_gap(found).max())
                )
                if refit:
                    found = least_squares(lasso).infer(self.model, signals, found.codes)
                parts.append(scipy.sparse.csr_array(np.asarray(found.codes)))
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
        found = self.scored(
            self.model, ("lasso", "lasso_refit"), l0, rows, outliers == "keep"
        )
        _require_reached(found["lasso"]["l0"], l0, found["lasso"]["num_scored"])
        return found["lasso_refit"]["fvu"]

    def scored(
        self,
        model: Model,
        codes: Sequence[str],
        l0: float,
        rows: Activations,
        keep: bool,
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
        inputs = self.inputs if "own" in codes else None
        source = HeldOut(
            rows, samples=SCORED, keep_outliers=keep, held_out=rows, inputs=inputs
        )
        study = study_of("learned", [source], [*methods_of(given, codes, l0)])
        with tempfile.TemporaryDirectory() as folder:
            measured = runner.run(
                study, Store(folder), models=Models(), show_progress=False
            )
        return {row["codes"]: row for row in measured}

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
        name = LEARNED if self.parts else GIVEN
        train = self.train if self.parts else rows
        held = TENTH if not self.parts and {*controls} - UNLEARNED else rows
        source = HeldOut(train, keep_outliers=outliers == "keep", held_out=held)
        plan = Plan(
            [SAE.of_model(self.model, name=name)], source, l0=l0, controls=controls
        )
        with tempfile.TemporaryDirectory() as folder:
            measured = run(plan, Store(folder))
        curves = curve_lines(measured)
        _require_reached(curves[0]["at_l0"], l0, curves[0]["samples"])
        if not controls:
            return Report(curves, None, None)
        best = min(curves[1:], key=lambda line: line["best_fvu"])["dictionary"]
        return Report(curves, best, compare_dictionaries(measured, name, best))

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
        model = self.model
        rows = self.train
        inputs = self.inputs
        make: Any = catalogue.sae_for_activations
        if inputs:
            make = functools.partial(catalogue.transcoder_for_activations, skip=skip)
        elif skip:
            raise ValueError(
                "only a transcoder has a skip; give learn the targets, or leave it out."
            )
        # It only asks its base for the model, which is this one.
        base = OnlineDictionary()
        learner = make(
            encoder, sparsity=k, input_dim=rows.input_dim, base=base, frozen=frozen
        )
        if epochs is None:
            epochs = math.ceil(STEPS / math.ceil(rows.num_pooled / learner.batch_size))
        learner = dataclasses.replace(learner, num_steps=epochs)
        seconds = 0.0
        # An impossible k is refused before an encoder is trained.
        best = self.fvu(None, k, outliers="keep")
        key = jax.random.key(seed)
        if frozen and learner.encoder.parameters(model.decoder, key) is None:
            # Matching pursuit reads only the dictionary.
            model = dataclasses.replace(model, encode=learner.encoder)
        elif frozen and isinstance(learner.encoder, BatchPursuit):
            # A threshold of the rows that the dictionary learned from leaves too many latents on in
            # others.
            model = learner.encoder.calibrate(model, jnp.asarray(self.held_out.pool()))
        else:
            read: Any = inputs and inputs.take(
                rows.numbers[evenly_spaced(rows.num_samples, rows.num_pooled)]
            )
            _, model, seconds = fit_signals(
                learner,
                rows.pool(),
                self.width,
                seed,
                read,
                bases=[model],
                show_progress=show_progress,
            )
        own = self.scored(model, ["own"], k, self.held_out, True)["own"]
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
            parts = (jax.ShapeDtypeStruct(shape[:dims], dtype) for dims in (2, 1))
            model = trees.load(content, Model(*parts))  # type: ignore[arg-type]
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

    def _sparsity(self, l0):
        l0 = self.l0 if l0 is None else l0
        check_sparse("l0", l0, *self.atoms.shape)
        # JAX would trace a number of NumPy's.
        return float(l0)

    def _asked(self, activations, l0, outliers):
        """The rows to score, the given ones or those held out, after reporting outliers; and at
        which L0.
        """
        rows = self.held_out if activations is None else self._opened(activations)
        screened(rows, outliers)
        return rows, self._sparsity(l0)

    def _opened(self, activations):
        rows = open_activations(activations)
        if rows.input_dim != len(self.bias):
            raise ValueError(
                f"the activations have {rows.input_dim} dimensions, but the dictionary "
                f"{len(self.bias)}; give those of the layer that it was learned from."
            )
        return rows


def _require_reached(reached, l0, samples):
    if abs(reached - l0) > max(0.05 * l0, 1 / samples):
        raise ValueError(
            f"no weight gives codes of a mean L0 of {l0:g} on these activations, only of "
            f"{reached:.3g}; ask for less."
        )


def fit_signals(
    learner: Learner,
    signals: Float[np.ndarray, "n input_dim"],
    width: int,
    seed: int | PRNGKeyArray,
    inputs: Float[np.ndarray, "n num_inputs"] | None = None,
    **options: Any,
) -> Fitted:
    """Fits a learner to signals and returns the end of the fit.

    Args:
      learner: the learner to fit.
      signals: (n, input_dim).
      width: number of atoms to learn.
      seed: the seed of the fit, an integer or a random key.
      inputs: what a transcoder reads.
      **options: options of `fit`.
    """
    read = None if inputs is None else jnp.asarray(inputs, float)
    train = Split(jnp.asarray(signals, float), inputs=read)
    # The other two splits are not scored.
    task = Task(train, train, train, width=width)
    return fit(learner, [task], [seed], **options)[0].end


def check_sparse(name: str, value: float, input_dim: int, width: int) -> None:
    """Raises a ValueError if codes with so many latents are not sparse, which no measurement
    allows.
    """
    check_number(name, value, above=0)
    most = min(DENSEST * input_dim, width - 1)
    if value > most:
        raise ValueError(
            f"{name} is {value:g}, but codes are sparse only up to {most:g}, a quarter of the "
            f"{input_dim} dimensions and fewer than the {width} atoms; ask for less."
        )

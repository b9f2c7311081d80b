"""The check of a metric."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.random import default_rng
from scipy.sparse import csr_array

from sae_gap.core import SPLITS, Model, Split, Task, check_type
from sae_gap.data import Setting
from sae_gap.encoders import Affine, Lasso, ReLU
from sae_gap.learners import Given, Held
from sae_gap.metrics import SCORED, Inferred, Metric
from sae_gap.study import Inference, Method, finite
from sae_gap.testing import Demand

# First and last rows of a hundred that a split may have alone: a rank may outlive one loss.
FIRST = ((0, 60), (0, 40))
LAST = ((40, 100), (60, 100))
ROWS = 100
LATENTS = 11
INPUT_DIM = 12
# The latent whose atom is zero, and the latents that no code of a split uses.
DEAD = 3
SILENT = {"train": [0, 1, 2], "id": [0, 4], "ood": [5]}

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class _Case:
    """What a metric reads: a hundred samples of each split, or fewer, with codes of any sign and
    some silent latents.

    Attributes:
      protocol: "strict" or "paper".
      used: whether the ID split and the training split use any latent.
      form: how codes are held.
      padded: dimensions that signals are padded to.
      roll: by how many places latents move.
      missing: what is not known: "truth", "dictionary" or "optimum".
      few: the split that has fewer rows.
      kept: the first of these rows, and the end.
      origin, bias: the mean of the signals, and the decoder's bias, in each dimension.
    """

    protocol: str = "strict"
    used: bool = True
    form: Callable[[np.ndarray], Any] = np.asarray
    padded: int | None = None
    roll: int = 0
    missing: str = ""
    few: str = ""
    kept: tuple[int, ...] = ()
    origin: float = 1.0
    bias: float = 1.0

    def inferred(self) -> Inferred:
        task = Setting(20, 3, 2 * ROWS, padded_dim=self.padded).task()
        live = np.arange(task.input_dim) < INPUT_DIM
        rng = default_rng(1)
        atoms = np.zeros((task.input_dim, LATENTS))
        atoms[live] = rng.normal(size=(INPUT_DIM, LATENTS))
        atoms[:, DEAD] = 0
        codes = {name: self._codes(name, rng) for name in SPLITS}
        model = self._model(np.roll(atoms, self.roll, axis=1), live)
        inference = Inference(self._task(task, live), model, timed=False)
        lasso = Lasso(0.1)
        optimum: dict[str, Any] = {}
        if self.missing not in ("dictionary", "optimum"):
            optimum = {name: inference.infer(lasso, name) for name in SCORED}
        return inference.inferred(
            Method("own", "sae", Given(Held(model), "own"), lasso),
            codes=codes,
            optimum=optimum,
            lam=lasso.lam,
            protocol=self.protocol,
            encoder=lasso if optimum else None,
        )

    def _codes(self, name: str, rng: np.random.Generator) -> Any:
        shape = ROWS, LATENTS
        codes = rng.normal(size=shape) * (rng.random(shape) < 0.3)
        if self.used or name == "ood":
            codes[:, SILENT[name]] = 0
        else:
            codes[:] = 0
        rolled = np.roll(codes, self.roll, axis=1).astype(np.float32)
        return self.form(rolled[self._rows(name)])

    def _rows(self, name: str) -> slice:
        return slice(*self.kept) if name == self.few else slice(None)

    def _model(self, atoms: Float[np.ndarray, "..."], live: np.ndarray) -> Model:
        columns: Array = jnp.asarray(atoms, jnp.float32)
        dictionary = None if self.missing == "dictionary" else columns
        bias = jnp.asarray(self.bias * live)
        return Model(dictionary, bias, Affine.create(columns), ReLU())

    def _task(self, task: Task, live: np.ndarray) -> Task:
        """The task with signals about the origin, and with the truth where it is known."""
        splits: dict[str, Any] = {}
        for name in SPLITS:
            rows = self._rows(name)
            split = getattr(task, name)
            truth = None
            if self.missing != "truth":
                truth = self.form(np.asarray(split.codes)[rows])
            splits[name] = Split(split.signals[rows] + self.origin * live, truth)
        known = None if self.missing == "truth" else task.dictionary
        return replace(task, dictionary=known, **splits)


def check_metric(metric: Metric) -> None:
    """Checks a metric on codes of 11 atoms, of which one is zero and not all are used.

    Raises:
      AssertionError: its numbers depend on how codes are held, on padding, on the order of latents
        or on the rows of another split, it changes codes, or it says what it cannot tell.
    """
    check_type("the metric", metric, Metric, "give the METRIC of a module")
    demand = Demand(metric.name)
    for protocol, used in (("strict", True), ("paper", True), ("strict", False)):
        _check_numbers(demand, metric, _Case(protocol, used))
    numbers = cache(lambda case: metric(case.inferred()))
    _check_bias(demand, numbers)
    _check_rows(demand, numbers)


def _check_numbers(demand: Demand, metric: Metric, case: _Case) -> None:
    def numbers(**changes: Any) -> Columns:
        return metric(replace(case, **changes).inferred())

    inferred = case.inferred()
    columns = metric(inferred)
    for name, codes in case.inferred().codes.items():
        demand(
            np.array_equal(inferred.codes[name], codes),
            "must not change codes in place; copy them first",
        )
    demand(finite(columns), "must give finite numbers, or leave a column out")
    demand(
        not _moved(columns, numbers(form=csr_array)),
        "must say the same of sparse codes; read `dense_chunks`",
    )
    # Activations of a network are never padded.
    demand(
        not (metric.everywhere and _moved(columns, numbers(padded=15))),
        "must not count dimensions of zeros; leave out `task.padding` of them",
    )
    # Where none is used they tie.
    demand(
        not (case.used and _moved(columns, numbers(roll=4))),
        "must not mind the order of latents; choose none by its place",
    )
    for missing in ("truth", "dictionary", "optimum"):
        words = f"must leave out what it cannot tell without {missing}; see `needs`"
        try:
            left = numbers(missing=missing).keys()
        except Exception as error:
            raise AssertionError(f"{metric.name} {words}.") from error
        demand(left <= columns.keys(), words)


def _check_bias(demand: Demand, numbers: Callable[[_Case], Columns]) -> None:
    unbiased = numbers(_Case(bias=0.0))
    demand(
        _moved(unbiased, numbers(_Case(bias=0.0, origin=0.0)))
        <= _moved(unbiased, numbers(_Case())),
        "must count the decoder's bias where it reads signals; see `Model.reconstruct`",
    )


def _check_rows(demand: Demand, numbers: Callable[[_Case], Columns]) -> None:
    """Checks which rows a metric scores, by the columns that change without some of them."""

    def moved(name: str, kept: tuple[int, int]) -> set[str]:
        return _moved(numbers(_Case()), numbers(_Case(few=name, kept=kept)))

    first = set[str]().union(*(moved(name, kept) for name in SPLITS for kept in FIRST))
    last = set[str]().union(*(moved(name, kept) for name in SPLITS for kept in LAST))
    demand(
        first == last, "must score all rows of a split, not the first or the last alone"
    )
    by = {name: moved(name, FIRST[0]) for name in SPLITS}
    for column in set[str]().union(*by.values()):
        named = [name for name in SCORED if column.endswith(f"_{name}")]
        scored = any(column in by[name] for name in named or SCORED)
        demand(
            scored and (named != ["id"] or column not in by["ood"]),
            f"must score in {column} the rows of its split, not of another; see `by_split`",
        )


def _moved(columns: Columns, other: Columns) -> set[str]:
    """The columns that differ, or that one of the two lacks."""
    moved = set()
    for name in columns.keys() | other.keys():
        left = np.asarray(columns.get(name, np.nan))
        right = np.asarray(other.get(name, np.nan))
        if left.shape != right.shape or not np.allclose(left, right, 1e-4, 1e-6):
            moved.add(name)
    return moved

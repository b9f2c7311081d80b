"""A study as data: sources of data crossed with methods, each a learner crossed with an encoder."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sae_gap import catalogue
from sae_gap.core import check_options, check_sequence, check_type, is_integer, option, shown
from sae_gap.data import Source, check_sources
from sae_gap.encoders import Encoder
from sae_gap.learners import HostLearner, Learner
from sae_gap.metrics import Metric
from sae_gap.storage import key

# `strict`: learners see only the training split, and codes are certified; `paper`: as published.
PROTOCOLS = ("strict", "paper")
Scalar = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class Method:
    """A learner, which makes a dictionary, crossed with an encoder, which infers codes on it.

    Args:
      name: names its rows.
      family: the kind of method, for tables and figures: probe, sae, frozen, dictionary_learning,
        oracle, ...
      learner: yields the model.
      encoder: infers the codes.
      row: columns that tell its rows from other methods' in the study, over those of its learner
        and encoder.
      at: steps of the fit to score, each in a row of its own with the column `step`; () scores only
        the end of the fit.
    """

    name: str
    family: str
    learner: Learner
    encoder: Encoder
    row: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    at: tuple[int, ...] = ()

    def __post_init__(self):
        check_type("row", self.row, Mapping, "give a value for each column")
        if not isinstance(self.learner, Learner) or not isinstance(self.encoder, Encoder):
            raise ValueError(
                f"method {self.name!r} must have a Learner and an Encoder; subclass those of "
                "sae_gap for your own."
            )
        last = self.learner.num_steps
        # A learner on the host has no model before its end.
        first = last if isinstance(self.learner, HostLearner) else 0
        there = all(is_integer(step) and first <= step <= last for step in self.at)
        if not there or len(set(self.at)) < len(self.at):
            steps = f"different steps from {first} to the {last} of its learner"
            raise ValueError(
                f"method {self.name!r} must be scored at {steps}, but at is {shown(self.at)}."
            )

    @property
    def coordinates(self) -> dict[str, Scalar]:
        """The columns that identify its rows: the learner's, the encoder's and its own. An SAE's
        own encoder is "own".
        """
        own = {"inference": "own"} if self.encoder == self.learner.encode else {}
        return {**self.encoder.coordinates, **self.learner.coordinates, **own, **self.row}


@dataclasses.dataclass(frozen=True)
class Study:
    """Sources of data crossed with methods.

    Args:
      name: names the study's rows.
      sources: settings, recordings or worlds; those that differ only in their seed are fitted
        together.
      methods: the methods for every source, or a function of one, since some depend on its
        sparsity.
      lam: weight of the l1 norm in the gap of every method whose codes have no weight of their own;
        None compares no codes with an optimum.
      protocol: "strict" or "paper"; what the methods see and how metrics are fitted.
      metrics: the metrics to measure.
      optimum: whether to find the certified optimum, which metrics of the gap need.
      timed: whether the study needs the seconds of fits; learners are then fitted one after the
        other.
      calibrate_on: the rows on which encoders find parameters for a requested L0, "scored" or
        "train".
      spread: how many processes share the work: "jobs", or the "rows" that a learner sees, where
        each reads its own and all fit one job together.
      seconds: whether rows have the seconds of coding the ID split.
    """

    name: str
    sources: Sequence[Source]
    methods: Any
    lam: float | None = option(0.1, least=0)
    protocol: str = option("strict", choices=PROTOCOLS)
    metrics: Sequence[Metric] = dataclasses.field(default_factory=catalogue.default_metrics)
    optimum: bool = True
    timed: bool = False
    calibrate_on: str = option("scored", choices=("scored", "train"))
    spread: str = option("jobs", choices=("jobs", "rows"))
    seconds: bool = True

    def __post_init__(self):
        check_options(self)
        if not callable(self.methods):
            every = self.methods
            object.__setattr__(self, "methods", lambda source: every)
        for metric in self.metrics:
            check_type("a metric", metric, Metric, "give Metric(name, function)")
        check_sources(self.sources)
        if len({key(source.asdict()) for source in self.sources}) < len(self.sources):
            raise ValueError(
                "sources must be different settings or recordings, but some are given twice."
            )
        for source in self.sources:
            methods = self.methods(source)
            mend = "give sae_gap.Method(name, family, learner, encoder)"
            check_sequence("methods(source)", methods, Method, mend)
            names = [(method.name, *method.coordinates.items()) for method in methods]
            if len(set(names)) < len(names):
                listed = ", ".join(method.name for method in methods)
                raise ValueError(
                    f"methods must have different names or coordinates, but they are {listed}."
                )

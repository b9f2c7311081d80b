"""A study as data: what it runs, at which sizes, and what it draws and prints."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.harness import Drawing, Preset
from sae_gap.data import Source
from sae_gap.study import Method

RECOVERY = (
    "mcc_id mcc_ood cosine close support_f1_id support_f1_ood accuracy_id accuracy_ood auc_id "
    "auc_ood"
)
INFERENCE = (
    "l0_above_id mse_id objective_id gap_id relative_gap_id certificate_id fit_seconds "
    "encode_seconds"
)


class Bench(NamedTuple):
    """A study; `harness.main.run` is its binary.

    Args:
      module: `__name__` of its module, which gives its name and folder; the docstring has its
        question and its outputs.
      title: title of its page.
      methods: methods for a source and a preset; `--methods` may name others, see `method_of`.
      presets: by name; "quick" is the default. Their class, `Preset` or one derived from it, has
        the study's flags and its sources.
      figures: by the stem of their file.
      tables: columns to print, as words, by title; their headings are the metrics' own.
      varies: columns beside the name that its methods vary; summary.csv shows them next to the
        sizes.
      options: options of `Study`, beside its sources, methods, λ and protocol.
      slow: methods that run only if they are named, or all are.
      parts: whether to split each SAE's distance to the oracle; with one size, a run ends and its
        page begins with the shares of encoder and dictionary.
      flags: the class of the options of its run, by default `StudyOptions`.
    """

    module: str
    title: str
    methods: Callable[[Source, Any], Sequence[Method]]
    presets: Mapping[str, Preset]
    figures: Mapping[str, Drawing] = {}
    tables: Mapping[str, str] = {"Recovery": RECOVERY, "Inference on ID": INFERENCE}
    varies: tuple[str, ...] = ()
    options: Mapping[str, Any] = {}
    slow: tuple[str, ...] = ("softplus_adam",)
    parts: bool = False
    flags: Any = None

    @property
    def name(self) -> str:
        """Its name, that of its module."""
        return self.module.rpartition(".")[2]

    @property
    def about(self) -> str:
        """Its question and its outputs."""
        return str(sys.modules[self.module].__doc__)

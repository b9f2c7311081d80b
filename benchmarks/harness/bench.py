"""A study as data: what it runs, at which sizes, and what it draws and prints."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness.drawings import Drawing
from benchmarks.harness.preset import Preset, grid
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


@dataclasses.dataclass(frozen=True)
class Bench:
    """A study; `harness.main.run` is its binary.

    Args:
      name: name of the study, its module and its folder.
      title: title of its page.
      about: its question and its outputs, the docstring of its module.
      methods: methods for a source and a preset; `--methods` may name others, see `crossing`.
      presets: by name; "quick" is the default. Their class, `Preset` or one derived from it, has
        the study's flags.
      options: options of `Study`, beside its sources, methods, λ and protocol.
      varies: columns beside the name that its methods vary; summary.csv shows them next to the
        sizes.
      figures: by the stem of their file.
      tables: columns to print, as words, by title; their headings are the metrics' own.
      parts: whether to split each SAE's distance to the oracle; with one size, a run ends and its
        page begins with the shares of encoder and dictionary.
      note: what the answer says of its SAEs.
      sources: the sources of a preset.
      slow: methods that run only if they are named, or all are.
      without: options that make no sense here.
    """

    name: str
    title: str
    about: str
    methods: Callable[[Source, Preset], Sequence[Method]]
    presets: Mapping[str, Preset]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    varies: tuple[str, ...] = ()
    figures: Mapping[str, Drawing] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"Recovery": RECOVERY, "Inference on ID": INFERENCE}
    )
    parts: bool = False
    note: str = ""
    sources: Callable[[Preset], Sequence[Source]] = grid
    slow: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

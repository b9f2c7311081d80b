"""A study as data: what it runs, at which sizes, what it draws and prints; and a run of it."""

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import cli
from benchmarks.harness import Drawing, Preset
from benchmarks.options import Distributed, Fitted, Limited, frozen, option, written
from sae_gap.data import Source
from sae_gap.storage import Folder, Row, Store, digests
from sae_gap.study import Method, Models, Study

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
      measured: returns lines of `splits` that `measure` left for a preset, which are drawn with
        the rows of the run.
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
    measured: Callable[[Any], Iterable[Row]] = lambda preset: ()

    @property
    def name(self) -> str:
        """Its name, that of its module."""
        return self.module.rpartition(".")[2]

    @property
    def about(self) -> str:
        """Its question and its outputs."""
        return str(sys.modules[self.module].__doc__)


@frozen
class StudyOptions(Fitted, Distributed, Limited):
    """What to run. `options_of` adds the changes to its preset."""

    preset: str = "quick"
    shard: str | None = option(
        None, "i/N: run the i-th of N parts of the study, counted from 0.  [all]"
    )
    dry_run: bool = option(
        False, "Say what would run and what must be fitted, and run nothing."
    )
    methods: tuple[str, ...] | None = option(
        None,
        "Methods to run: names as in the table, LEARNER:ENCODER, LEARNER, sae_ENCODER, or all; by "
        "default all but slow ones.",
    )
    data: str | None = option(
        None,
        "An .npz file of activations (Y_train, Y_val, Y_ood, optionally Z_* and A).",
    )


class Run(NamedTuple):
    """The run that the options of a study ask for.

    Attributes:
      bench: the study.
      options: options of the command line.
      preset: grid and lengths, with the other flags applied.
      study: the study to run.
      names: the methods, in order.
      shard: the part of the study to run; None is all of it.
    """

    bench: Bench
    options: StudyOptions
    preset: Preset
    study: Study
    names: Sequence[str]
    shard: tuple[int, int] | None

    @property
    def store(self) -> Store:
        """Where rows go."""
        return Store(Folder(self.options.results_dir) / self.bench.name)

    @property
    def models(self) -> Models:
        """Where fitted models go."""
        return Models(self.options.models_folder)

    @property
    def page(self) -> Folder:
        """Where tables, figures and the page go: a folder for each choice of flags that change
        them.
        """
        flags = written(self.options, ("preset", "methods", "data", *vars(self.preset)))
        if not flags:
            return self.store.folder
        text = "_".join(flag.removeprefix("--") for flag in flags)
        name = re.sub(r"[^\w=.,+-]", "-", text)
        if len(name) > 100:
            name = f"{name[:80]}-{digests.key({'flags': text})}"
        return self.store.folder / name

    @property
    def command(self) -> str:
        """The command that reproduces all this."""
        return f"{cli.COMMAND}{shlex.join([self.bench.name, *written(self.options)])}"

"""The options of a study's command line, and the run that they ask for."""

import dataclasses
import re
import shlex
from collections.abc import Iterable, Sequence

from benchmarks import cli
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import Preset
from benchmarks.options import Distributed, Fitted, option, written
from sae_gap.storage import Folder, Row, results
from sae_gap.study import Models, Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptions(Fitted, Distributed):
    """The options of a study's run; `options_of` adds the changes to its preset."""

    preset: str = option("quick", "Sizes of a run; other flags take precedence.")
    shard: str | None = option(
        None, "i/N: run the i-th of N parts of the study, counted from 0.  [all]"
    )
    dry_run: bool = option(False, "Say what would run and what must be fitted, and run nothing.")
    methods: tuple[str, ...] | None = option(
        None,
        "Methods to run: names as in the table, LEARNER:ENCODER, LEARNER, sae_ENCODER, or all; by "
        "default all but slow ones.",
    )
    data: str | None = option(
        None, "An .npz file of activations (Y_train, Y_val, Y_ood, optionally Z_* and A)."
    )

    def beside(self, run: "Run") -> Iterable[Row]:
        """Lines of `splits` from elsewhere, which are drawn with the rows of the run."""
        return ()


@dataclasses.dataclass(frozen=True)
class Run:
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
    def store(self) -> results.Store:
        """Where rows go."""
        return results.Store(Folder(self.options.results_dir) / self.bench.name)

    @property
    def models(self) -> Models:
        """Where fitted models go."""
        return Models(self.options.models_folder)

    @property
    def page(self) -> Folder:
        """Where tables, figures and the page go: a folder for each choice of flags that change
        them.
        """
        sizes = (field.name for field in dataclasses.fields(self.preset))
        flags = written(self.options, ("preset", "methods", "data", *sizes))
        if not flags:
            return self.store.folder
        text = "_".join(flag.removeprefix("--") for flag in flags)
        name = re.sub(r"[^\w=.,+-]", "-", text)
        if len(name) > 100:
            name = f"{name[:80]}-{results.key({'flags': text})}"
        return self.store.folder / name

    @property
    def command(self) -> str:
        """The command that reproduces all this."""
        return f"{cli.COMMAND}{shlex.join([self.bench.name, *written(self.options)])}"

"""Runs or resumes every study.

Flags that a study does not have are left out for it. Each study writes under
<results_dir>/<study>/, and models are shared.

  python -m sae_gap all --preset=smoke
  python -m sae_gap all --preset=paper --seeds=0 --num_latents=50,100,500,1000
  python -m sae_gap all --dry_run
"""

import dataclasses

from absl import logging

from benchmarks import cli, studies
from benchmarks.harness.command import Run, RunOptions, options_of, read
from benchmarks.harness.main import execute
from benchmarks.options import fields, option
from sae_gap.core.checks import SEED
from sae_gap.runtime import distributed
from sae_gap.study.study import PROTOCOLS


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllOptions(RunOptions):
    """The options of a run of all studies, with changes to their presets."""

    studies: tuple[str, ...] | None = option(None, "Studies to run, in order; by default all.")
    protocol: str | None = option(None, "As of each study, strict or paper.", choices=PROTOCOLS)
    num_latents: tuple[int, ...] | None = option(None, "Numbers of latents.", least=1)
    width: tuple[int, ...] | None = option(None, "Numbers of atoms to learn.", least=1)
    sparsity: tuple[int, ...] | None = option(None, "Numbers of active latents a sample.", least=1)
    num_samples: tuple[int, ...] | None = option(None, "Numbers of ID samples.", least=1)
    seeds: tuple[int, ...] | None = option(None, "Seeds.", **SEED)


def runs(options: AllOptions) -> list[Run]:
    """The runs of every study that the options ask for, all checked before the first one starts.

    Raises:
      ValueError: a study is not known, or cannot run with them.
    """
    known = studies.found()
    names = list(known) if options.studies is None else options.studies
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--studies has {', '.join(unknown)}; choose from {', '.join(known)}.")
    found = []
    for name in names:
        kind = options_of(known[name])
        flags = {field.name for field in fields(kind)}
        chosen = kind(**{flag: value for flag, value in vars(options).items() if flag in flags})
        found.append(read(known[name], chosen))
    return found


def main(options: AllOptions) -> None:
    every = runs(options)
    for run in every:
        logging.info("%s", run.bench.name)
        if len(every) > 1 and distributed.is_first():
            print(f"# {run.bench.name}\n")
        execute(run)
        if distributed.is_first():
            print()


if __name__ == "__main__":
    cli.run(main)

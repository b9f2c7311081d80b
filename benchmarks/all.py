"""Runs or resumes every study.

Flags that a study does not have are left out for it. Each study writes under <results_dir>/<study>/, and models are shared.

  python -m sae_gap all --preset=smoke
  python -m sae_gap all --preset=paper --seeds=0 --num_latents=50,100,500,1000
  python -m sae_gap all --dry_run
"""

import sys

from absl import flags, logging

from benchmarks import cli, studies
from benchmarks.harness import command
from benchmarks.harness.bench import Bench
from sae_gap.runtime import distributed

_SHARED = (
    "preset",
    "protocol",
    "num_latents",
    "width",
    "sparsity",
    "num_samples",
    "seeds",
    "results_dir",
    "models_dir",
    "shard",
)

FLAGS = flags.FlagValues()
flags.DEFINE_list("studies", None, "Studies to run, in order; by default all.", flag_values=FLAGS)
for _name in _SHARED:
    flags.DEFINE_string(_name, None, f"--{_name} of every study.", flag_values=FLAGS)
flags.DEFINE_boolean("dry_run", None, "--dry_run of every study.", flag_values=FLAGS)
cli.define_distributed(FLAGS)


def read() -> list[tuple[Bench, command.Read]]:
    """Every study with what its command line says, all of which are checked before the first study runs.

    Raises:
      cli.UsageError: a flag is not known, or has a value that cannot be.
    """
    known = studies.found()
    names = list(known) if FLAGS.studies is None else FLAGS.studies
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise cli.UsageError(f"--studies has {', '.join(unknown) or 'no name'}; choose from {', '.join(known)}.")
    given = {name: FLAGS[name].value for name in (*_SHARED, "dry_run") if FLAGS[name].value is not None}
    reads = []
    for name in names:
        bench = known[name]
        arguments = [f"--{flag}={value}" for flag, value in given.items() if flag in bench.flags]
        cli.take([name, *arguments], bench.flags)
        reads.append((bench, command.read_study(bench, arguments)))
        for flag in bench.flags:
            # What the study was told here is no default of its own.
            bench.flags[flag].unparse()
    return reads


def main() -> None:
    reads = read()
    for bench, one in reads:
        logging.info("%s", bench.name)
        if len(reads) > 1 and distributed.is_first():
            sys.stdout.write(f"# {bench.name}\n\n")
        bench.execute(one)
        if distributed.is_first():
            sys.stdout.write("\n")


if __name__ == "__main__":
    cli.run(main, FLAGS)

"""Runs or resumes every study, in an order in which later ones find the models of earlier ones.

Flags that a study does not have are left out for it. Each study writes under <results_dir>/<study>/, and models are shared.

  python -m sae_gap all --preset=smoke
  python -m sae_gap all --preset=paper --seeds=0 --num_latents=50,100,500,1000
  python -m sae_gap all --dry_run
"""

import importlib
import sys

from absl import flags, logging

from benchmarks import cli
from benchmarks.harness import command
from benchmarks.harness.bench import Bench
from sae_gap.runtime import distributed

STUDIES = (
    *("amortisation_gap", "vary_latents", "frozen_decoder", "dict_quality", "support_recovery", "lambda_sensitivity"),
    *("learning_dynamics", "warmstart_encoder", "warmstart_decoder", "vary_samples", "vary_sparsity", "phase_transition"),
    *("large_latents", "dictionary_challenge", "encoder_budget", "worlds"),
)
_SHARED = (
    "preset",
    "protocol",
    "num_latents",
    "sparsity",
    "num_samples",
    "seeds",
    "results_dir",
    "models_dir",
    "shard",
    "dry_run",
)

FLAGS = flags.FlagValues()
flags.DEFINE_list("studies", list(STUDIES), "Studies to run, in order.", flag_values=FLAGS)
for _name in _SHARED:
    _define = flags.DEFINE_boolean if _name == "dry_run" else flags.DEFINE_string
    _define(_name, None, f"--{_name} of every study.", flag_values=FLAGS)
cli.define_distributed(FLAGS)


def bench_of(name: str) -> Bench:
    """The study of a name."""
    return importlib.import_module(f"benchmarks.studies.{name}").BENCH


def read() -> list[tuple[Bench, command.Read]]:
    """Every study with what its command line says, all of which are checked before the first study runs.

    Raises:
      cli.UsageError: a flag is not known, or has a value that cannot be.
    """
    unknown = [name for name in FLAGS.studies if name not in STUDIES]
    if unknown or not FLAGS.studies:
        raise cli.UsageError(f"--studies has {', '.join(unknown) or 'no name'}; choose from {', '.join(STUDIES)}.")
    given = {name: FLAGS[name].value for name in _SHARED if FLAGS[name].value is not None}
    reads = []
    for name in FLAGS.studies:
        bench = bench_of(name)
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

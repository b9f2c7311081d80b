"""The binary of a study: what its options ask for, its plan and its outcome."""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from benchmarks import cli
from benchmarks.harness import Bench, Preset, Run, StudyOptions, methods
from benchmarks.options import changes, option
from sae_gap.data import SCALED, Recording, check_width, fetched
from sae_gap.figures import labels
from sae_gap.learners import Learner, Peer
from sae_gap.runtime import devices, distributed
from sae_gap.storage import CELL
from sae_gap.study import Job, Method, Stored, Study, chain, jobs, runner

# Options that conflict.
_EXCLUDED = {
    "world": "sparsity stream data",
    "world_file": "world law num_latents sparsity input_dim stream data",
    "data": "num_latents num_samples input_dim noise_db stream",
}


def options_of(bench: Bench) -> type[StudyOptions]:
    """The options of a study's command line: how to run, and changes to its preset."""
    fields: Any = changes(bench.presets["quick"])
    fields["preset"] = (
        str,
        option("quick", "The sizes that no other flag gives.", choices=bench.presets),
    )
    # A field that was not made by `option` has no flag.
    fields |= {name: (Any, None) for name in bench.presets["quick"].without}
    return dataclasses.make_dataclass(
        "Of",
        [(name, *field) for name, field in fields.items()],
        bases=(StudyOptions,),
        namespace={"__doc__": "The sizes and lengths."},
        frozen=True,
        kw_only=True,
    )


def read(bench: Bench, options: StudyOptions) -> Run:
    """The run that options ask for, checked as far as possible before it.

    Raises:
      ValueError: the study cannot run with them.
    """
    shard = None if options.shard is None else cli.parse_shard(options.shard)
    preset = _changed(bench, options)
    given = options.methods
    sources = preset.sources() if options.data is None else _recordings(options, preset)
    if not sources:
        raise ValueError(
            "no setting is left of these sizes; choose more latents or a lower sparsity."
        )

    def chosen(source: Any) -> list[Method]:
        """The methods to run: the study's in its order, then crossings."""
        listed = bench.methods(source, preset)
        if given is None or given == ("all",):
            return [one for one in listed if given or one.name not in bench.slow]
        known = {method.name for method in listed}
        return [one for one in listed if one.name in given] + [
            methods.method_of(name, listed, source, preset)
            for name in given
            if name not in known
        ]

    study = Study(
        bench.name,
        tuple(sources),
        chosen,
        lam=preset.lam,
        protocol=preset.protocol,
        **bench.options,
    )
    # Let methods refuse before anything runs.
    names = {method.name: method.learner for method in chosen(sources[0])}
    for name, learner in names.items():
        _check_library(name, learner)
    return Run(bench, options, preset, study, [*names], shard)


def _changed(bench: Bench, options: StudyOptions) -> Preset:
    """The preset that options name, with their further changes."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name, excluded in _EXCLUDED.items():
        for other in excluded.split():
            if given.get(name) and given.get(other):
                raise ValueError(
                    f"--{other} and --{name} exclude each other; leave one of them out."
                )
    preset = bench.presets[options.preset]
    preset = dataclasses.replace(
        preset, **{name: value for name, value in given.items() if name in vars(preset)}
    )
    if preset.law and not preset.world:
        raise ValueError(f"--law is part of a world; give --world={SCALED} with it.")
    sized = preset.world_file is None and preset.world in (None, SCALED)
    if not sized and "num_latents" not in given:
        preset = dataclasses.replace(preset, num_latents=(None,))
    if sized and None in preset.num_latents:
        raise ValueError(
            "--num_latents=none is for a world of its own size; give a number."
        )
    return preset


def _recordings(options: StudyOptions, preset: Preset) -> list[Recording]:
    """Recordings of a file in place of settings, for each width, sparsity and seed; by default the
    sparsity is that of its codes.
    """
    path = fetched(str(options.data))
    sparsities = preset.sparsity
    codes = Recording(path, preset.width[0]).task().train.codes
    if vars(options).get("sparsity") is None and codes is not None:
        sparsities = (
            max(1, round(np.count_nonzero(np.asarray(codes), axis=1).mean())),
        )
    sources = [
        Recording(path, *cell)
        for cell in itertools.product(preset.width, sparsities, preset.seeds)
    ]
    for source in sources:
        check_width(source.sparsity, source.task().width)
    return sources


def _check_library(name: str, learner: Learner) -> None:
    """Refuses a method that learns, itself or in a base, by a library that is not installed."""
    for peer in chain(learner):
        if isinstance(peer, Peer):
            try:
                peer.library()
            except ImportError as error:
                raise ValueError(
                    f"{name} needs {error.name}, which is not installed; run: pip install "
                    f"'sae_gap[peers]', or leave {name} out."
                ) from None


def run(bench: Bench) -> None:
    """Runs the binary."""
    kind = options_of(bench)
    cli.run(lambda given: execute(read(bench, given)), options=kind, about=bench.about)


def execute(run: Run) -> None:
    """Runs a study and prints its tables and its answer; or prints the plan of a dry run."""
    began = time.perf_counter()
    if run.options.dry_run:
        if distributed.is_first():
            print(plan(run))
        return
    check_writable(run)
    devices.compilations()
    rows = runner.run(run.study, run.store, run.shard, models=run.models)
    logging.info("%d rows in %s", len(rows), run.store.folder)
    if not rows and run.shard is None:
        raise ValueError(
            f"none of {', '.join(run.names)} can run on these data; choose others or add the "
            "truth that they need."
        )
    if rows and distributed.is_first():
        notes = {
            "seconds": f"{time.perf_counter() - began:.0f}",
            "peak memory": f"{devices.peak_memory():.1f} GiB",
            "compilations": str(devices.compilations()),
            "models": str(run.models.directory),
        }
        # Imported here: pages take a tenth of a second to load, which --help need not wait for.
        from benchmarks.harness.outcome import write_outcome

        print(write_outcome(run, rows, notes))
        logging.info(
            "%s", ", ".join(f"{name}: {value}" for name, value in notes.items())
        )


def plan(run: Run) -> str:
    """A line for each job: how many of its rows exist and how many models it would be the first to
    fit.
    """
    lines = []
    planned = 0
    stored = Stored(run.study, run.store)
    for job, fits in _ahead(run):
        size = job.sources[0].asdict()
        cell = ", ".join(
            labels.label(size[name], name) for name in (*CELL, "input_dim")
        )
        there = sum(stored.lacking(line) is None for line in job.lines)
        lines.append(
            f"{cell}: {job}: {there}/{len(job.lines)} rows there, {fits or 'nothing'} to fit"
        )
        planned += fits
    return "\n".join([*lines, f"{len(lines)} jobs, {planned} models to fit"])


def check_writable(run: Run) -> None:
    """Refuses a run that could not keep its rows or fits; a run that finds all of its models may
    read them from anywhere.
    """
    run.store.folder.require_writable()
    folder = run.options.models_folder
    obstacle = folder.obstacle()
    if obstacle is not None and any(fits for _, fits in _ahead(run)):
        raise ValueError(
            f"models cannot be kept in {folder} ({obstacle}); choose another folder with "
            "--models_dir."
        )


def _ahead(run: Run) -> Iterator[tuple[Job, int]]:
    """Each job, with the number of models that it would be the first to fit, by their folders."""
    stored = Stored(run.study, run.store)
    planned: set[str] = set()
    for job in jobs(run.study):
        fits = {
            str(run.models.folder(learner, source))
            for source in stored.rest(job).sources
            for learner in run.models.missing(job.learner, source, job.steps)
        }
        yield job, len(fits - planned)
        planned |= fits

"""Whether a run survives what happens to runs: kills, signals, a full disk, several writers, bad input, other devices.

A small study, with its models and the states of its fits on disk, is run once and left alone; its rows are the reference. Then
it is run again and again in folders of their own, and disturbed. It is a fault where the rows that a trial ends with differ
from the reference in anything but their seconds, where a file is left that no finished run leaves, where a process ends with
another exit code than it should, or says more than a sentence. Prints a table and a line for each fault, of which there being
any is exit code 1. It takes minutes to hours, and is no part of the tests.

  kills    a run is killed by SIGKILL at a random moment, begun again and killed again, one to eight times, and then left to
           end; those that are killed are forked from a process that has imported JAX, which would take most of the moments
  signals  SIGINT and SIGTERM at random moments, the first second included: one sentence and exit code 130 or 143
  writers  two and four processes on one folder at once
  disk     no file of models may grow beyond a few kilobytes; then the same command without that limit
  inputs   every wrong command of `benchmarks.wrong_commands`: one sentence, exit code 2, no file left
  bits     twice the same bits, and with two and eight devices the same numbers to 1e-5

  python -m benchmarks.torture
  python -m benchmarks.torture --parts=kills --kills=1000
  python -m benchmarks.torture --parts=inputs --verbose
"""

import concurrent.futures
import functools
import json
import math
import multiprocessing.process
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags, logging

from benchmarks import cli, wrong_commands
from sae_gap import results, tables
from sae_gap.cores import cores

STUDY = "learning_dynamics"
ARGUMENTS = ("--preset=smoke", "--methods=sae_topk,sae_relu,online_dl,dl_fista")
# What differs between two runs of the same numbers: seconds, and the revision where someone commits meanwhile.
VARYING = {"fit_seconds", "encode_seconds", "compile_seconds", "revision"}
# The last digit of a listed column, which is rounded to four decimals.
ROUNDED = 1.01e-4

FLAGS = flags.FlagValues()
_PARTS = flags.DEFINE_list("parts", None, "Which of the parts to run; by default all.", flag_values=FLAGS)
_KILLS = flags.DEFINE_integer("kills", 40, "SIGKILLs, less those that come too late.", lower_bound=1, flag_values=FLAGS)
_SIGNALS = flags.DEFINE_integer("signals", 10, "SIGINTs, and as many SIGTERMs.", lower_bound=1, flag_values=FLAGS)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=FLAGS)
_AT_ONCE = flags.DEFINE_integer("at_once", cores(), "Trials at once.", lower_bound=1, flag_values=FLAGS)
_VERBOSE = flags.DEFINE_boolean("verbose", False, "Print the sentence of every wrong command.", flag_values=FLAGS)


class Trial(NamedTuple):
    """What came of a disturbed run.

    Attributes:
      name: what was done to it.
      times: how often.
      faults: what is wrong with its end, a line each.
    """

    name: str
    times: int
    faults: list[str]


class Reference(NamedTuple):
    """The run that was left alone.

    Attributes:
      rows: by key, without their seconds.
      seconds: that it took, with programs compiled before.
      files: names of the files that it left, keys and digits apart.
    """

    rows: dict[str, results.Row]
    seconds: float
    files: set[str]


def start(folder: pathlib.Path, *more: str, **options) -> subprocess.Popen:
    """Starts the study on a folder."""
    command = [sys.executable, "-m", f"benchmarks.{STUDY}", *ARGUMENTS, f"--results_dir={folder}", *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def begin(folder: pathlib.Path) -> multiprocessing.process.BaseProcess:
    """Starts the study on a folder in a process that has imported JAX and the runner already."""
    folder.with_suffix(".code").unlink(missing_ok=True)
    return wrong_commands.fork(STUDY, [*ARGUMENTS, f"--results_dir={folder}"], folder.with_suffix(".txt"))


def rows_of(folder: pathlib.Path) -> dict[str, results.Row]:
    """The rows of a folder by key, without what differs from run to run."""
    rows = results.Store(folder / STUDY).rows()
    return {row["key"]: {name: value for name, value in row.items() if name not in VARYING} for row in rows}


def leave_alone(folder: pathlib.Path) -> Reference:
    """Runs the study, twice, since the first compiles."""
    for place in ("first", "second"):
        began = time.perf_counter()
        process = start(folder / place)
        _, said = process.communicate()
        if process.returncode:
            raise cli.UsageError(f"the study to be disturbed does not run as it is: {said.strip().splitlines()[-1]}")
        seconds = time.perf_counter() - began
    return Reference(rows_of(folder / "second"), seconds, set(_files(folder / "second")))


def _files(folder: pathlib.Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder))


def compare(reference: Reference, folder: pathlib.Path, *, tolerance: float = 0.0) -> list[str]:
    """What is wrong with the rows and the files that a run ended with."""
    try:
        found = rows_of(folder)
    except ValueError as error:
        return [f"rows cannot be read: {error}"]
    faults = [f"row {key} is lost" for key in reference.rows.keys() - found.keys()]
    faults += [f"row {key} is from nowhere" for key in found.keys() - reference.rows.keys()]
    for key in reference.rows.keys() & found.keys():
        faults += list(_differences(reference.rows[key], found[key], tolerance))
    if not tolerance:
        faults += [f"{name} is left behind" for name in sorted(set(_files(folder)) - reference.files)]
        faults += [f"{name} is missing" for name in sorted(reference.files - set(_files(folder)))]
    return faults


def _differences(expected: results.Row, found: results.Row, tolerance: float) -> Iterator[str]:
    label = f"{expected.get('method')}, seed {expected.get('seed')}, step {expected.get('step')}"
    for name in expected.keys() | found.keys():
        one, other = expected.get(name), found.get(name)
        if tolerance and name in ("device", "fit_device"):
            continue
        # A column of rounded numbers, such as the cosines of all atoms, may round to another last digit.
        if not _close(one, other, max(tolerance, ROUNDED) if tolerance and isinstance(one, list) else tolerance):
            yield f"{label}: {name} is {other!r}, where {one!r} is expected"


def _close(one: Any, other: Any, tolerance: float) -> bool:
    if tolerance and isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_close(*pair, tolerance) for pair in zip(one, other, strict=True))
    if tolerance and isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return one == other


def kills(reference: Reference, folder: pathlib.Path, rng: random.Random) -> Iterator[Callable[[], Trial]]:
    """Runs that are killed up to eight times each before they are left to end."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "kills-none"
    seconds = math.inf
    # The first also starts the process that all are forked from.
    for _ in range(2):
        shutil.rmtree(place, ignore_errors=True)
        began = time.perf_counter()
        begin(place).join()
        seconds = min(seconds, time.perf_counter() - began)
    faults = _ended(place)
    if faults:
        raise cli.UsageError(f"the study to be killed does not run as it is: it {faults[0]}.")
    left = _KILLS.value
    while left:
        moments = [rng.uniform(0, 1.1 * seconds) for _ in range(min(left, rng.randint(1, 8)))]
        left -= len(moments)
        yield functools.partial(_killed, reference, folder / f"kills-{left}", moments)


def _killed(reference: Reference, folder: pathlib.Path, moments: Sequence[float]) -> Trial:
    count, faults = 0, []
    for moment in moments:
        process = begin(folder)
        process.join(moment)
        killed = process.exitcode is None
        if killed:
            process.kill()
            count += 1
        process.join()
        faults += [] if killed else _ended(folder)
    return Trial("SIGKILL", count, faults + _end(reference, folder))


def _ended(folder: pathlib.Path) -> list[str]:
    """What is wrong with the end of a run that was forked and not killed."""
    code, said = folder.with_suffix(".code"), folder.with_suffix(".txt")
    if code.exists() and code.read_text() == "0":
        return []
    told = said.read_text(errors="replace").strip()[-300:] if said.exists() else "nothing"
    return [f"ends by itself with {code.read_text() if code.exists() else 'no code'}, and says {told}"]


def _end(reference: Reference, folder: pathlib.Path) -> list[str]:
    """Runs the same command to its end, undisturbed."""
    process = start(folder)
    _, said = process.communicate()
    if process.returncode:
        return [f"ends with {process.returncode}: {said.strip()[-300:]}"]
    return compare(reference, folder)


def signals(reference: Reference, folder: pathlib.Path, rng: random.Random) -> Iterator[Callable[[], Trial]]:
    """Runs that are asked to end, every other one in its first second, when it still imports."""
    for number in range(_SIGNALS.value):
        for sent, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            moment = rng.uniform(0.15, 1) if number % 2 else rng.uniform(1, 0.9 * reference.seconds)
            place = folder / f"{sent.name}-{number}"
            yield functools.partial(_asked, reference, place, sent, code, moment)


def _asked(reference: Reference, folder: pathlib.Path, sent: signal.Signals, code: int, moment: float) -> Trial:
    process, faults = start(folder), []
    try:
        process.communicate(timeout=moment)
        return Trial(sent.name, 0, [])
    except subprocess.TimeoutExpired:
        process.send_signal(sent)
    try:
        _, said = process.communicate(timeout=reference.seconds + 30)
        sentences = [line for line in said.strip().splitlines() if not line.startswith(("I", "W"))]
        if process.returncode != code:
            faults.append(f"after {moment:.2f} s: ends with {process.returncode} in place of {code}: {said.strip()[-300:]}")
        elif len(sentences) != 1:
            faults.append(f"after {moment:.2f} s: says {said.strip()[-300:]!r}")
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        faults.append(f"after {moment:.2f} s: does not end")
    return Trial(sent.name, 1, faults + _end(reference, folder))


def writers(reference: Reference, folder: pathlib.Path, rng: random.Random) -> Iterator[Callable[[], Trial]]:
    """Several processes that do the same work in the same folder at once."""
    del rng
    for count in (2, 4):

        def together(count=count, place=folder / f"writers-{count}") -> Trial:
            processes = [start(place) for _ in range(count)]
            said = [process.communicate()[1] for process in processes]
            faults = [
                f"ends with {p.returncode}: {s.strip()[-300:]}" for p, s in zip(processes, said, strict=True) if p.returncode
            ]
            return Trial(f"{count} writers", 1, faults + compare(reference, place))

        yield together


def disk(reference: Reference, folder: pathlib.Path, rng: random.Random) -> Iterator[Callable[[], Trial]]:
    """A disk that takes rows, but none of the larger models."""
    del rng
    for limit in (1_024, 4_096, 16_384):

        def full(limit=limit, place=folder / f"disk-{limit}") -> Trial:
            # A file cannot grow beyond the limit; Python ignores the signal, and the write fails as on a full disk.
            process = start(place, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
            _, said = process.communicate()
            traced = "Traceback" in said
            faults = (
                [f"ends with {process.returncode}: {said.strip()[-300:]}"] if traced or process.returncode not in (0, 2) else []
            )
            return Trial("full disk", 1, faults + _end(reference, place))

        yield full


def inputs(reference: Reference, folder: pathlib.Path, rng: random.Random) -> Iterator[Callable[[], Trial]]:
    """Commands that cannot be carried out."""
    del reference, rng
    folder.mkdir(parents=True, exist_ok=True)
    for number, (binary, arguments) in enumerate(wrong_commands.commands(folder)):

        def wrong(binary=binary, arguments=arguments, place=folder / f"inputs-{number}") -> Trial:
            said, faults = wrong_commands.give(binary, arguments, place)
            if _VERBOSE.value:
                sys.stdout.write(f"{' '.join([binary, *arguments])}\n  {said}\n")
            return Trial("wrong command", 1, faults)

        yield wrong


def bits(reference: Reference, folder: pathlib.Path, rng: random.Random) -> Iterator[Callable[[], Trial]]:
    """Runs with other devices; the reference itself was the second of two."""
    del rng
    first = folder.parent / "reference" / "first"
    yield lambda: Trial("the same bits", 1, compare(reference, first))
    for count in (2, 8):

        def spread(count=count, place=folder / f"devices-{count}") -> Trial:
            flag = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
            process = start(place, env={**os.environ, "XLA_FLAGS": flag})
            _, said = process.communicate()
            faults = [f"ends with {process.returncode}: {said.strip()[-300:]}"] if process.returncode else []
            return Trial(f"{count} devices", 1, faults or compare(reference, place, tolerance=1e-5))

        yield spread


PARTS = {"kills": kills, "signals": signals, "writers": writers, "disk": disk, "inputs": inputs, "bits": bits}


def summarise(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A line for each kind of trial."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.name, []).append(trial)
    return [
        {
            "what": name,
            "times": sum(trial.times for trial in group),
            "trials": len(group),
            "faulty": sum(bool(trial.faults) for trial in group),
        }
        for name, group in found.items()
    ]


def main() -> None:
    names = list(PARTS) if _PARTS.value is None else _PARTS.value
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise cli.UsageError(f"--parts has {', '.join(map(repr, unknown)) or 'no name'}; choose from {', '.join(PARTS)}.")
    rng = random.Random(_SEED.value)
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="sae_gap-torture-") as made:
        folder = pathlib.Path(made)
        alone: Mapping[str, Any] = {"rows": {}, "seconds": 0.0, "files": set()}
        reference = leave_alone(folder / "reference") if set(names) - {"inputs"} else Reference(**alone)
        logging.info("left alone, the study takes %.1f s and has %d rows", reference.seconds, len(reference.rows))
        for name in names:
            jobs = list(PARTS[name](reference, folder / name, rng))
            with concurrent.futures.ThreadPoolExecutor(1 if name == "writers" else _AT_ONCE.value) as pool:
                for done, trial in enumerate(pool.map(lambda job: job(), jobs)):
                    trials.append(trial)
                    logging.log_every_n_seconds(logging.INFO, "%s: %d of %d", 30, name, done + 1, len(jobs))
    heads = {"what": "what", "times": "times", "trials": "trials", "faulty": "faulty"}
    sys.stdout.write(tables.format_table(summarise(trials), heads) + "\n")
    faults = [f"{trial.name}: {fault}" for trial in trials for fault in trial.faults]
    sys.stdout.write("".join(f"{json.dumps(fault)}\n" for fault in faults))
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, FLAGS)

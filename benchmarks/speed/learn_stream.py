"""How well, how fast and in how much memory `online_dl` learns a large dictionary from a stream that no memory holds.

The samples are drawn while they are learned from, ten latents active in each unless said otherwise. A run that was stopped goes
on where it was; --rounds stops one on purpose, to tell from a few rounds how long all would take. Prints a line, and writes it
to rows.jsonl under <results_dir>/learn_stream/: seconds of a round and of all processors on it (the first compiles, and is
apart), the most memory that the process has held, and the mean |cosine| of the true atoms with the nearest learned ones; where
these are distinct, by the last column all of them, that is the cosine of the best assignment. All devices share the work; a CPU
is one device, and XLA_FLAGS=--xla_force_host_platform_device_count=2 makes it two. With --distributed many processes share it:
processors are those of all, and the memory is that of the process which held most.

  python -m sae_gap learn_stream --num_latents=30000 --num_samples=3600000 --passes=2 --rates=0.3,0.04,0.01
  python -m sae_gap learn_stream --num_latents=1000 --num_samples=100000
  python -m sae_gap learn_stream --num_latents=100000 --num_samples=12000000 --passes=2 --rounds=3
"""

import dataclasses
import statistics
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import flags, logging
from jaxtyping import Float, Int

from benchmarks import cli
from sae_gap.core.types import Setting
from sae_gap.data.paper_stream import Stream
from sae_gap.figures import tables
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.learners.online.stream import fit_stream
from sae_gap.runtime import devices, distributed
from sae_gap.storage import results
from sae_gap.storage.folder import Folder
from sae_gap.storage.trees import Checkpoint

NAME = "learn_stream"
# True atoms that are compared at once with all learned ones.
_AT_ONCE = 256

FLAGS = flags.FlagValues()
_NUM_LATENTS = flags.DEFINE_integer("num_latents", 1_000, "Width of the dictionary.", flag_values=FLAGS)
_SPARSITY = flags.DEFINE_integer("sparsity", 10, "Active latents of a sample.", flag_values=FLAGS)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 120_000, "Different samples of the stream.", flag_values=FLAGS)
_PASSES = flags.DEFINE_integer("passes", 1, "How often the stream is gone through.", lower_bound=1, flag_values=FLAGS)
_STEPS = flags.DEFINE_integer("num_steps", 100, "Rounds of the whole fit.", lower_bound=1, flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", None, "Rounds to stop after; all by default.", lower_bound=1, flag_values=FLAGS)
_RATES = flags.DEFINE_list(
    "rates",
    None,
    "η at the start, at 85 % and at the end; by default the learner's.",
    flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the dictionary, the samples and the learner.", lower_bound=0, flag_values=FLAGS)
_EVERY = flags.DEFINE_float("every", 60.0, "Seconds between two saves.", lower_bound=0, flag_values=FLAGS)
_RESULTS_DIR = flags.DEFINE_string(
    "results_dir", "results", "Where the folder of this benchmark goes; gs:// and s3:// are buckets.", flag_values=FLAGS
)
cli.define_distributed(FLAGS)


class Read(NamedTuple):
    """What a process is to work on: where results go, how to learn, from which samples, and what a row says of them."""

    directory: Folder
    learner: OnlineDictionary
    stream: Stream
    setting: Setting
    told: results.Row


class _EnoughError(Exception):
    """The rounds that were asked for are done."""


class _Rounds:
    """What is seen of the rounds of this process: their seconds, and the dictionary of the last."""

    def __init__(self, stop: int | None, of: int):
        self._stop, self._of, self._last = stop, of, _clocks()
        self.seconds, self.processor = list[float](), list[float]()
        self.done, self.dictionary = 0, np.empty((0, 0))

    def __call__(self, state) -> None:
        jax.block_until_ready(state)
        now = _clocks()
        for kept, end, begin in zip((self.seconds, self.processor), now, self._last, strict=True):
            kept.append(end - begin)
        self._last, self.done = now, int(state.round)
        logging.info("round %d of %d: %.1f s, change %.3f", self.done, self._of, self.seconds[-1], float(state.change))
        if self._stop is not None and self.done >= self._stop:
            self.dictionary = np.asarray(distributed.whole(state.dictionary))
            raise _EnoughError


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _nearest(
    learned: Float[np.ndarray, "input_dim learned"], truth: Float[np.ndarray, "input_dim true"]
) -> tuple[Float[np.ndarray, " true"], Int[np.ndarray, " true"]]:
    """Each true atom's largest |cosine| with a learned one, and with which: an assignment would need all cosines at once."""
    cosine, nearest = np.empty(truth.shape[1]), np.empty(truth.shape[1], int)
    for i in range(0, truth.shape[1], _AT_ONCE):
        piece = np.abs(truth[:, i : i + _AT_ONCE].T @ learned)
        nearest[i : i + _AT_ONCE], cosine[i : i + _AT_ONCE] = piece.argmax(axis=1), piece.max(axis=1)
    return cosine, nearest


def read() -> Read:
    """Checks the flags, and draws the true dictionary.

    Raises:
      cli.UsageError: a flag has a value that cannot be.
    """
    num_samples, passes = _NUM_SAMPLES.value, _PASSES.value
    directory = cli.folder("results_dir", _RESULTS_DIR.value) / NAME
    try:
        size = {"num_latents": _NUM_LATENTS.value, "sparsity": _SPARSITY.value, "num_samples": num_samples}
        setting = Setting(**size, seed=_SEED.value, stream=True)
        stream = Stream(setting)
        if num_samples * passes < _STEPS.value:
            raise ValueError(f"--num_samples={num_samples} are too few for --num_steps={_STEPS.value} rounds.")
        learner = OnlineDictionary(num_steps=_STEPS.value)
        rates = None if _RATES.value is None else _numbers("rates", _RATES.value, 3)
        learner = dataclasses.replace(learner, rates=None if rates is None else (rates[0], rates[1], rates[2]))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    told = {"study": NAME, **setting.asdict(), "passes": passes, "num_steps": _STEPS.value}
    told |= {} if rates is None else {"rates": ",".join(f"{rate:g}" for rate in rates)}
    return Read(directory, learner, stream, setting, told)


def _numbers(flag: str, given: list[str], count: int) -> list[float]:
    try:
        numbers = [float(number) for number in given]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ValueError(f"--{flag} must be {count} numbers with commas between them, but it is {','.join(given)!r}.")
    return numbers


def main() -> None:
    directory, learner, stream, setting, told = read()
    try:
        directory.require_writable()
        store = results.Store(directory)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    num_samples = setting.num_samples

    def source(start: int, count: int) -> np.ndarray:
        first = start % num_samples
        head = stream(first, min(count, num_samples - first))
        return head if len(head) == count else np.concatenate([head, source(start + len(head), count - len(head))])

    save = Checkpoint(directory / "checkpoints", f"{results.key(told)}.safetensors", every=_EVERY.value)
    rounds = _Rounds(_ROUNDS.value, _STEPS.value)
    try:
        model = fit_stream(
            learner,
            source,
            num_latents=setting.num_latents,
            key=jax.random.key(setting.seed),
            num_samples=num_samples * told["passes"],
            checkpoint=save,
            watch=rounds,
        )
        found = np.asarray(model.dictionary)
    except _EnoughError:
        found = rounds.dictionary
    memory = max(distributed.gather(devices.peak_memory()))
    processors = [sum(each) for each in zip(*distributed.gather(rounds.processor), strict=True)]
    paces = {"round_seconds": rounds.seconds, "processor_seconds": processors}
    measured = {name: statistics.median(seconds[1:] or seconds) for name, seconds in paces.items()} | {"memory": memory}

    if distributed.is_first():
        cosine, nearest = _nearest(found, stream.dictionary)
        scores = {"rounds": rounds.done, "cosine": float(cosine.mean()), "close": float((cosine > 0.9).mean())}
        scores |= {"distinct": len(np.unique(nearest)) / len(nearest)} | measured
        keep(store, told | scores | results.provenance() | {"device": devices.describe()})


def keep(store: results.Store, row: results.Row) -> None:
    """Stores the row of a run, and prints its line."""
    store.append([row | {"key": results.key(row), "job": results.key(row)}])
    columns = {"num_latents": "latents", "rounds": "rounds", "round_seconds": "s a round"}
    columns |= {
        "processor_seconds": "processor s",
        "memory": "GiB",
        "cosine": "cosine",
        "close": "cos > .9",
        "distinct": "distinct",
    }
    metrics = ("round_seconds", "processor_seconds", "memory", "cosine", "close", "distinct")
    summary = tables.summarise([row], by=("num_latents", "rounds"), metrics=metrics)
    sys.stdout.write(tables.format_table(summary, columns) + "\n")


if __name__ == "__main__":
    cli.run(main, FLAGS)

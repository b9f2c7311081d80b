r"""How well, how fast and in how much memory `online_dl` learns a large dictionary from a stream
that no memory holds.

The samples are drawn while they are learned from, ten latents active in each unless said otherwise.
A run that was stopped goes on where it was; --rounds stops one on purpose, to tell from a few
rounds how long all would take. Prints a line, and writes it to rows under
<results_dir>/learn_stream/: seconds of a round and of all processors on it (the first compiles, and
is apart), the most memory that the process has held, and the mean |cosine| of the true atoms with
the nearest learned ones; where these are distinct, by the last column all of them, that is the
cosine of the best assignment. All devices share the work; a CPU is one device, and
XLA_FLAGS=--xla_force_host_platform_device_count=2 makes it two. With --distributed many processes
share it: processors are those of all, and the memory is that of the process which held most.

  python -m sae_gap learn_stream --width=30000 --num_samples=3600000 --passes=2 \
    --rates=0.3,0.04,0.01
  python -m sae_gap learn_stream --width=1000 --num_samples=100000
  python -m sae_gap learn_stream --width=100000 --num_samples=12000000 --passes=2 --rounds=3
"""

import dataclasses
import time

import jax
import numpy as np
from absl import logging

from benchmarks import cli
from benchmarks.options import Distributed, option
from sae_gap.core import matching
from sae_gap.core.types import Setting
from sae_gap.data.paper_stream import Stream
from sae_gap.figures import tables
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.runtime import devices, distributed
from sae_gap.storage import results
from sae_gap.storage.trees import Checkpoint
from sae_gap.study.stream import fit_stream

NAME = "learn_stream"
COLUMNS = {
    "num_latents": "latents",
    "rounds": "rounds",
    "round_seconds": "s a round",
    "processor_seconds": "processor s",
    "memory": "GiB",
    "cosine": "cosine",
    "close": "cos > .9",
    "distinct": "distinct",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnStreamOptions(Distributed):
    """The stream, the fit and where its row goes."""

    width: int = option(1_000, "Latents of the samples, and atoms to learn.", least=1)
    sparsity: int = option(10, "Active latents of a sample.", least=1)
    num_samples: int = option(120_000, "Different samples of the stream.", least=1)
    passes: int = option(1, "How often the stream is gone through.", least=1)
    num_steps: int = option(100, "Rounds of the whole fit.", least=1)
    rounds: int | None = option(None, "Rounds to stop after.  [all]", least=1)
    seed: int = option(0, "Of the dictionary, the samples and the learner.", least=0)
    rates: tuple[float, float, float] | None = option(
        None, "η at the start, at 85 % and at the end.  [the learner's]"
    )
    every: float = option(60.0, "Seconds between two saves.", least=0)
    results_dir: str = option("results", "Where its folder goes; gs:// and s3:// are buckets.")


class _EnoughError(Exception):
    """The rounds that were asked for are done."""


class _Rounds:
    """What is seen of the rounds of this process: the clocks at the end of each, and the dictionary
    of the last.
    """

    def __init__(self, stop: int):
        self._stop, self.done, self.dictionary = stop, 0, np.empty((0, 0))
        self._clocks = [(time.perf_counter(), time.process_time())]

    def __call__(self, state) -> None:
        jax.block_until_ready(state)
        self._clocks.append((time.perf_counter(), time.process_time()))
        self.done = int(state.round)
        logging.info(
            "round %d: %.1f s, change %.3f", self.done, self.seconds()[0][-1], float(state.change)
        )
        if self.done >= self._stop:
            self.dictionary = np.asarray(distributed.whole(state.dictionary))
            raise _EnoughError

    def seconds(self) -> np.ndarray:
        """Seconds, and those of the processor, of each round."""
        return np.diff(self._clocks, axis=0).T


def recovery(learned: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How close the nearest learned atom is to each true one: an assignment would need all cosines
    at once.
    """
    nearest = matching.nearest_atoms(truth, learned)
    cosine = np.abs(
        (matching.unit_columns(learned)[:, nearest] * matching.unit_columns(truth)).sum(axis=0)
    )
    distinct = len(np.unique(nearest)) / len(nearest)
    return {
        "cosine": float(cosine.mean()),
        "close": float((cosine > 0.9).mean()),
        "distinct": distinct,
    }


def main(options: LearnStreamOptions) -> None:
    store = results.Store(cli.folder(options.results_dir) / NAME)
    num_samples, num_steps, rates = options.num_samples, options.num_steps, options.rates
    total = num_samples * options.passes
    with cli.usage():
        setting = Setting(options.width, options.sparsity, num_samples, options.seed, stream=True)
        stream = Stream(setting)
        if total < num_steps:
            raise ValueError(
                f"--num_samples={num_samples} are too few for --num_steps={num_steps} rounds."
            )
        learner = OnlineDictionary(num_steps=num_steps, rates=rates)
        store.folder.require_writable()
    cell = {"study": NAME, **setting.asdict(), "passes": options.passes, "num_steps": num_steps}
    if rates is not None:
        cell["rates"] = ",".join(f"{rate:g}" for rate in rates)

    def source(start: int, count: int) -> np.ndarray:
        first = start % num_samples
        head = stream(first, min(count, num_samples - first))
        return (
            head
            if len(head) == count
            else np.concatenate([head, source(start + len(head), count - len(head))])
        )

    rounds = _Rounds(options.rounds or num_steps + 1)
    save = Checkpoint(
        store.folder / "checkpoints", f"{results.key(cell)}.safetensors", every=options.every
    )
    try:
        model = fit_stream(
            learner,
            source,
            num_latents=setting.num_latents,
            num_samples=total,
            key=jax.random.key(setting.seed),
            checkpoint=save,
            watch=rounds,
        )
        learned = np.asarray(model.dictionary)
        save.discard()
    except _EnoughError:
        learned = rounds.dictionary
    seconds, mine = rounds.seconds()
    processors = np.sum(distributed.gather(mine.tolist()), axis=0)
    # The first compiles, and counts only if there is no other.
    begin = min(1, len(seconds) - 1)
    measured = {
        "round_seconds": float(np.median(seconds[begin:])),
        "processor_seconds": float(np.median(processors[begin:])),
        "memory": max(distributed.gather(devices.peak_memory())),
    }
    if distributed.is_first():
        row = cell | {"rounds": rounds.done} | recovery(learned, stream.dictionary) | measured
        row |= results.provenance() | {"device": devices.describe()}
        store.append([row | {"key": results.key(row), "job": results.key(row)}])
        summary = tables.summarise([row], by=list(COLUMNS)[:2], metrics=list(COLUMNS)[2:])
        print(tables.format_table(summary, COLUMNS))


if __name__ == "__main__":
    cli.run(main)

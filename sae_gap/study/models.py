"""Fit once, whoever asks: fitted models on disk, shared by all studies.

A fit has a folder of its own, named by all that decides it: the learner with its hyper-parameters and its bases, the source
with its seed, the precision, the kind of device, the versions of the libraries and the code that runs. In it lie models along
the fit, `<step>.npz`, the last one, `<step>-end.npz`, and while it lasts the state that a killed fit goes on from, `state.npz`.
What is damaged or belongs elsewhere is noticed and fitted again.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
from absl import logging
from jaxtyping import PRNGKeyArray

from sae_gap.core import identity
from sae_gap.core.checks import check_number, check_path, check_sequence, check_type
from sae_gap.core.types import Model, Task
from sae_gap.data.recording import Source
from sae_gap.learners.fit_checks import check_steps
from sae_gap.learners.learner import Learner
from sae_gap.runtime import distributed
from sae_gap.storage import buckets, checkpoints, files, results
from sae_gap.storage.checkpoints import Checkpoint
from sae_gap.study.fitting import Fit, Fitted, blank_model, fit, goes_side_by_side

# Part of every key: raise it when files change their form or their meaning.
SCHEMA = 1
# Who fits what lies in a folder, of the threads of this process.
_TURNS: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)
# Of a fit that nothing is known of, on one core.
_SECONDS_PER_MULTIPLY = 1e-10


class Models:
    """A folder of fitted models, or none, where every fit lasts as long as whoever asked for it.

    Args:
      directory: the folder, made when there is something to keep; None keeps nothing.
      every: seconds between two saves of the state of a fit, about.
    """

    def __init__(self, directory: str | pathlib.Path | None = None, *, every: float = 60.0):
        if directory is not None:
            check_path("directory", directory)
        check_number("every", every, least=0)
        self.directory = None if directory is None else pathlib.Path(directory)
        self.every = every

    def size(self) -> int:
        """Bytes of all files in the folder."""
        if self.directory is None:
            return 0
        total = 0
        for path in self.directory.glob("*/[!.]*"):
            # Another process may sweep what it left.
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def folder(self, learner: Learner, source: Source) -> pathlib.Path | None:
        """Where a fit lies or would lie; None for one that takes no step, which is as soon done as read."""
        check_type("learner", learner, Learner, "give one of those in sae_gap.learners")
        check_type("source", source, get_args(Source), "give a setting, a world or a recording")
        if self.directory is None or not learner.num_steps:
            return None
        folder = self.directory / f"{_safe(learner.name)}-{_key(learner, source)}"
        if distributed.is_first():
            buckets.pull(folder)
        return folder

    def missing(self, learner: Learner, source: Source, at: Sequence[int] = ()) -> list[Learner]:
        """What has to be fitted before the models at these steps are there, bases first, by the names of the files alone."""
        folder = self.folder(learner, source)
        before = [] if learner.base is None else self.missing(learner.base, source)
        if not learner.num_steps:
            return before
        ended = _ends(folder)
        there = any(all(step >= end or (path.parent / _file(step)).exists() for step in at) for end, path in ended)
        return before if there else [*before, learner]

    def estimate(self, learner: Learner, num_samples: int, input_dim: int, num_latents: int) -> float:
        """About how many seconds a fit takes, from the pace of fits of its kind in the folder where there are any."""
        work = learner.work(num_samples, input_dim, num_latents)
        paces = []
        folders = [] if self.directory is None else self.directory.glob(f"{_safe(learner.name)}-*")
        for folder in itertools.islice(folders, 100):
            for _, path in _ends(folder):
                saved = checkpoints.read(path, {})
                done, seconds = (None, None) if saved is None else (saved.note.get("work"), saved.note.get("seconds"))
                # Work within reason, in a file that anyone may have written.
                if isinstance(done, float) and isinstance(seconds, float) and 1 <= done < 1e30 and 0 <= seconds < 1e9:
                    paces.append((abs(math.log(max(work, 1.0) / done)), seconds / done))
        return work * (min(paces)[1] if paces else _SECONDS_PER_MULTIPLY)

    def fit(
        self,
        learner: Learner,
        sources: Sequence[Source],
        tasks: Sequence[Task],
        at: Sequence[int] = (),
        *,
        watch: Callable[[Learner, int, int], None] | None = None,
    ) -> list[Fit]:
        """The fits of a learner to sources that differ in their seed, read where they are there and fitted where not.

        Args:
          learner: what to fit; its bases are fitted first, through this store.
          sources: what names the fits.
          tasks: the data of each source.
          at: steps whose models are wanted beside the last.
          watch: called now and then with a learner that is fitted, the number of the source and the steps taken.

        Returns:
          A fit for each source.
        """
        check_type("learner", learner, Learner, "give one of those in sae_gap.learners")
        check_sequence("sources", sources, get_args(Source), "give settings, worlds or recordings")
        check_sequence("tasks", tasks, Task, "give what sae_gap.draw or sae_gap.load returns")
        if len(sources) != len(tasks):
            raise ValueError(f"tasks must be {len(sources)}, one for each source, but they are {len(tasks)}.")
        check_steps(at)
        bases: Sequence[Model | None] = [None] * len(tasks)
        if learner.base is not None:
            bases = [one.end.model for one in self.fit(learner.base, sources, tasks, watch=watch)]
        wanted = [
            _Wanted(learner, source, task, base, self.folder(learner, source))
            for source, task, base in zip(sources, tasks, bases, strict=True)
        ]
        # Of two threads that want the same fits one makes them, and the other reads them.
        name = None if wanted[0].folder is None else str(wanted[0].folder)
        with contextlib.nullcontext() if name is None else _TURNS[name]:
            found = distributed.agree(lambda: [one.load(at) for one in wanted])
            absent = [i for i, one in enumerate(found) if one is None]
            if absent:
                told = None if watch is None else lambda place, steps: watch(learner, absent[place], steps)
                for i, one in zip(absent, self._fit([wanted[i] for i in absent], at, told), strict=True):
                    found[i] = one
        return [one for one in found if one is not None]

    def _fit(
        self, wanted: Sequence["_Wanted"], at: Sequence[int], watch: Callable[[int, int], None] | None, *, afresh: bool = False
    ) -> list[Fit]:
        """Fits one learner to what is wanted of it, and keeps what there is a folder for; afresh goes on from no state."""
        learner, stored = wanted[0].learner, wanted[0].folder is not None
        saves = self._checkpoints(wanted) if stored else None
        if saves is not None and afresh:
            for save in saves:
                save.discard()
        fits = fit(
            learner,
            [one.task for one in wanted],
            [one.key for one in wanted],
            at=sorted({*at, *(learner.landmarks if stored else ())}),
            bases=None if learner.base is None else [one.base for one in wanted if one.base is not None],
            checkpoints=saves,
            keep=lambda place, found: wanted[place].keep(found),
            watch=watch,
        )
        if saves is None:
            return fits
        ended, lost = [], False
        for one, save, found in zip(wanted, saves, fits, strict=True):
            one.keep(found.end, found)
            save.discard()
            one.sweep_states()
            # What was kept before the state that this fit went on from, by a process that was killed or runs beside it.
            steps = [step for step in at if step < found.end.step and step not in found.along]
            before = distributed.agree(functools.partial(_read_all, one, steps))
            along = {**found.along, **{step: kept[0] for step, kept in before.items() if kept is not None}}
            lost |= None in before.values()
            ended.append(dataclasses.replace(found, along=along))
        if lost and not afresh:
            logging.warning("fitting %s again: models along the fit are damaged", learner.name)
            return self._fit(wanted, at, watch, afresh=True)
        return ended

    def _checkpoints(self, wanted: Sequence["_Wanted"]) -> list[Checkpoint]:
        """Where the state of each fit is saved; side by side, one file holds all."""
        folders = [one.folder for one in wanted if one.folder is not None]
        for folder in folders if distributed.is_first() else ():
            files.sweep(folder)
        if not goes_side_by_side(wanted[0].learner):
            return [Checkpoint(folder / "state.npz", self.every, folder.name) for folder in folders]
        name = results.key({"fits": [folder.name for folder in folders]})
        return [Checkpoint(folders[0] / f"state-{name}.npz", self.every, name)] * len(folders)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A fit of one seed: what decides it, and where it lies; without a folder nothing is read or kept."""

    learner: Learner
    source: Source
    task: Task
    base: Model | None
    folder: pathlib.Path | None

    @property
    def key(self) -> PRNGKeyArray:
        return _random_key(self.learner, self.task)

    def load(self, at: Sequence[int]) -> Fit | None:
        """The finished fit with the models at these steps, or None if any of them is not there."""
        read = (self.read(step, ended=True) for step, _ in _ends(self.folder))
        ended = next((found for found in read if found is not None), None)
        if ended is None:
            return None
        end, note = ended
        along = {}
        for step in at:
            if step < end.step:
                found = self.read(step)
                if found is None:
                    return None
                along[step] = found[0]
        return Fit(end, along, note["compile_seconds"], note["device"][:200])

    def read(self, step: int, *, ended: bool = False) -> tuple[Fitted, dict[str, Any]] | None:
        """The model at a step, and its note."""
        if self.folder is None:
            return None
        path = self.folder / _file(step, end=ended)
        if not path.exists():
            return None
        saved = checkpoints.read(path, {"model": blank_model(self.learner, self.task, self.key, self.base)})
        if saved is None:
            return None
        note = saved.note
        own = (note.get("fit"), note.get("step"), note.get("ended")) == (self.folder.name, step, ended)
        seconds = [note.get("seconds"), *([note.get("compile_seconds")] if ended else [])]
        own = own and isinstance(note.get("device", None if ended else ""), str)
        # Within reason, in a file that anyone may have written.
        if not own or not all(isinstance(value, float) and 0 <= value < 1e9 for value in seconds):
            logging.warning("starting over: %s is of another fit", path)
            return None
        return Fitted(step, dataclasses.replace(saved.parts["model"], encode=self.learner.encode), note["seconds"]), note

    def keep(self, found: Fitted, whole: Fit | None = None) -> None:
        """Writes a model along the fit, or the last one, of the whole fit."""
        if self.folder is None or not distributed.is_first():
            return
        size = self.source.asdict()
        work = self.learner.work(self.source.num_train, size["input_dim"], size["num_latents"])
        note = {"fit": self.folder.name, "learner": identity.describe(self.learner), "source": size, "work": float(work)}
        note |= {"step": found.step, "seconds": found.seconds, "ended": whole is not None}
        if whole is not None:
            note |= {"compile_seconds": whole.compile_seconds, "device": whole.device}
        checkpoints.write(self.folder / _file(found.step, end=whole is not None), {"model": found.model}, note)

    def sweep_states(self) -> None:
        """Removes what runs left that were killed when other seeds were fitted beside this one, which named their file."""
        for stale in () if self.folder is None or not distributed.is_first() else self.folder.glob("state*.npz"):
            stale.unlink(missing_ok=True)


def _read_all(wanted: _Wanted, steps: Sequence[int]) -> dict[int, tuple[Fitted, dict[str, Any]] | None]:
    return {step: wanted.read(step) for step in steps}


def _random_key(learner: Learner, task: Task) -> PRNGKeyArray:
    """The key of a seed and of the learner's class, so that two classes on one seed do not share their noise."""
    stream = int(results.key({"learner": type(learner).__name__})[:7], 16)
    return jax.random.fold_in(jax.random.key(task.seed), stream)


def _packages(learner: Learner) -> tuple[str, ...]:
    """The packages of a learner and of its bases."""
    return learner.packages if learner.base is None else (*learner.packages, *_packages(learner.base))


def _key(learner: Learner, source: Source) -> str:
    installed = results.provenance()
    versions = {name: installed[name] for name in ("jax", "jaxlib", "equinox", "optax")}
    versions |= {name: results.version(name) for name in _packages(learner)}
    decides = {"learner": identity.describe(learner), "source": source.asdict(), "code": identity.code(learner)}
    where = {"precision": identity.precision(), "platform": jax.default_backend()}
    return results.key(decides | where | versions | {"schema": SCHEMA})


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9_]", "", name.lower())


def _file(step: int, *, end: bool = False) -> str:
    return f"{step:06d}{'-end' if end else ''}.npz"


def _ends(folder: pathlib.Path | None) -> list[tuple[int, pathlib.Path]]:
    """The last step of a finished fit and its file, by the name alone: one, unless someone put more there."""
    paths = [] if folder is None else folder.glob("*-end.npz")
    found = [(re.fullmatch(r"(\d{6,18})-end\.npz", path.name), path) for path in paths]
    return sorted((int(match[1]), path) for match, path in found if match)


__all__ = ["Models"]

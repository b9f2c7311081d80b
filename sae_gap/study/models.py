"""Fit once, whoever asks: fitted models on disk, shared by all studies.

A fit has a folder of its own, named after all that decides it: the learner with its hyper-parameters, its version and its
bases, the source with its seed, the precision and the kind of device. In it lie models along the fit, `<step>.safetensors`;
the last one, `fit.safetensors`, and after it `fit.json`, which says that the fit has ended; and while it lasts the state that a
killed fit goes on from, `state.safetensors`. What is damaged or belongs elsewhere is noticed and fitted again.
"""

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
from absl import logging
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from sae_gap.core import identity
from sae_gap.core.checks import check_number, check_sequence, check_type
from sae_gap.core.types import Model, Task
from sae_gap.data.recording import Source
from sae_gap.learners.fit_checks import check_steps
from sae_gap.learners.learner import Learner
from sae_gap.runtime import devices, distributed
from sae_gap.storage import results, trees
from sae_gap.storage.folder import Folder
from sae_gap.storage.trees import Checkpoint
from sae_gap.study.fitting import Fit, fit, goes_side_by_side
from sae_gap.study.program import Fitted, blank_model

_LAST, _ENDED = "fit.safetensors", "fit.json"
# Of a fit that nothing is known of, on one core.
_SECONDS_PER_MULTIPLY = 1e-10


class Models:
    """A folder of fitted models, or none, where every fit lasts as long as whoever asked for it.

    Args:
      directory: the folder, a path or the URL of one in a bucket, made when there is something to keep; None keeps nothing.
      every: seconds between two saves of the state of a fit, about.
    """

    def __init__(self, directory: str | os.PathLike[str] | Folder | None = None, *, every: float = 60.0):
        check_number("every", every, least=0)
        self.directory = None if directory is None else Folder(directory)
        self.every = every

    def folder(self, learner: Learner, source: Source) -> Folder | None:
        """Where a fit lies or would lie; None for one that takes no step, which is as soon done as read."""
        check_type("learner", learner, Learner, "give one of those in sae_gap.learners")
        check_type("source", source, get_args(Source), "give a setting, a world or a recording")
        if self.directory is None or not learner.num_steps:
            return None
        decides = {"learner": identity.describe(learner), "source": source.asdict(), "numerics": identity.NUMERICS}
        where = {"precision": identity.precision(), "platform": jax.default_backend()}
        return self.directory / f"{_plain(learner.name)}-{results.key(decides | where)}"

    def missing(self, learner: Learner, source: Source, at: Sequence[int] = ()) -> list[Learner]:
        """What has to be fitted before the models at these steps are there, bases first, by the names of the files alone."""
        before = [] if learner.base is None else self.missing(learner.base, source)
        if not learner.num_steps:
            return before
        folder = self.folder(learner, source)
        ended = None if folder is None else _ended(folder)
        if folder is not None and ended is not None:
            there = folder.names()
            if all(step >= ended["step"] or _file(step) in there for step in at):
                return before
        return [*before, learner]

    def estimate(self, learner: Learner, num_samples: int, input_dim: int, num_latents: int) -> float:
        """About how many seconds a fit takes, from the pace of fits of its kind in the folder where there are any."""
        work = learner.work(num_samples, input_dim, num_latents)
        names = [] if self.directory is None else self.directory.folders()
        kin = [self.directory / name for name in names if name.startswith(f"{_plain(learner.name)}-")][:100]  # type: ignore
        notes = [note for note in map(_ended, kin) if note is not None]
        paces = [(abs(math.log(max(work, 1.0) / note["work"])), note["seconds"] / note["work"]) for note in notes]
        return work * (min(paces)[1] if paces else _SECONDS_PER_MULTIPLY)

    def fit(
        self,
        learner: Learner,
        sources: Sequence[Source],
        tasks: Sequence[Task],
        at: Sequence[int] = (),
        *,
        mesh: Mesh | None = None,
        watch: Callable[[Learner, int, int], None] | None = None,
    ) -> list[Fit]:
        """The fits of a learner to sources that differ in their seed, read where they are there and fitted where not.

        Args:
          learner: what to fit; its bases are fitted first, through this store.
          sources: what names the fits.
          tasks: the data of each source.
          at: steps whose models are wanted beside the last.
          mesh: the devices to fit on, as for `fit`; if it spans processes, all call this alike and the first one writes.
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
            bases = [one.end.model for one in self.fit(learner.base, sources, tasks, mesh=mesh, watch=watch)]
        together = mesh is not None and devices.spans_processes(mesh)
        wanted = [
            _Wanted(learner, source, task, base, self.folder(learner, source), not together or distributed.is_first())
            for source, task, base in zip(sources, tasks, bases, strict=True)
        ]
        found = [one.load(at) for one in wanted]
        absent = [i for i, one in enumerate(found) if one is None]
        if together:
            absent = sorted({i for each in distributed.gather(absent) for i in each})
        if absent:
            told = None if watch is None else lambda place, steps: watch(learner, absent[place], steps)
            for i, one in zip(absent, self._fit([wanted[i] for i in absent], at, mesh, told), strict=True):
                found[i] = one
        return [one for one in found if one is not None]

    def _fit(
        self,
        wanted: Sequence["_Wanted"],
        at: Sequence[int],
        mesh: Mesh | None,
        watch: Callable[[int, int], None] | None,
        *,
        afresh: bool = False,
    ) -> list[Fit]:
        """Fits one learner to what is wanted of it, and keeps what there is a folder for; afresh goes on from no state."""
        learner, stored = wanted[0].learner, wanted[0].folder is not None
        saves = self._checkpoints(wanted) if stored else None

        def keep(place: int, found: Fitted) -> None:
            wanted[place].keep(found)

        if saves is not None and afresh:
            for save in saves:
                save.discard()
        fits = fit(
            learner,
            [one.task for one in wanted],
            [one.key for one in wanted],
            at=sorted({*at, *(learner.snapshots if stored else ())}),
            bases=None if learner.base is None else [one.base for one in wanted if one.base is not None],
            checkpoints=saves,
            keep=keep,
            watch=watch,
            show_progress=False,
            mesh=mesh,
        )
        if saves is None:
            return fits
        ended = []
        for one, save, found in zip(wanted, saves, fits, strict=True):
            one.end(found)
            save.discard()
            # What was kept before the state that this fit went on from, by a process that was killed.
            lacking = [step for step in at if step < found.end.step and step not in found.along]
            before = {step: one.read(step) for step in lacking}
            if None in before.values() and not afresh:
                logging.warning("fitting %s again: models along the fit are damaged", learner.name)
                return self._fit(wanted, at, mesh, watch, afresh=True)
            along = {**found.along, **{step: kept for step, kept in before.items() if kept is not None}}
            ended.append(dataclasses.replace(found, along=along))
        return ended

    def _checkpoints(self, wanted: Sequence["_Wanted"]) -> list[Checkpoint]:
        """Where the state of each fit is saved; side by side, one file holds all."""
        folders = [one.folder for one in wanted if one.folder is not None]
        if not goes_side_by_side(wanted[0].learner):
            return [Checkpoint(folder, every=self.every, fit=folder.name) for folder in folders]
        name = results.key({"fits": [folder.name for folder in folders]})
        return [Checkpoint(folders[0], f"state-{name}.safetensors", every=self.every, fit=name)] * len(folders)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A fit of one seed: what decides it, and where it lies; without a folder nothing is read or kept."""

    learner: Learner
    source: Source
    task: Task
    base: Model | None
    folder: Folder | None
    writes: bool

    @functools.cached_property
    def key(self) -> PRNGKeyArray:
        """A random key of the seed and of the learner's class, so that two classes on one seed do not share their noise."""
        stream = int(results.key({"learner": type(self.learner).__name__})[:7], 16)
        return jax.random.fold_in(jax.random.key(self.task.seed), stream)

    @functools.cached_property
    def blank(self) -> Model:
        return blank_model(self.learner, self.task, self.key, self.base)

    def load(self, at: Sequence[int]) -> Fit | None:
        """The finished fit with the models at these steps, or None if any of them is not there."""
        ended = None if self.folder is None else _ended(self.folder)
        if ended is None:
            return None
        end, along = self.read(ended["step"], _LAST), {step: self.read(step) for step in at if step < ended["step"]}
        whole = {step: found for step, found in along.items() if found is not None}
        if end is None or len(whole) < len(along):
            return None
        return Fit(end, whole, ended["compile_seconds"], ended["device"])

    def read(self, step: int, name: str | None = None) -> Fitted | None:
        """The model at a step; None if it is not there, damaged or of another fit."""
        name = _file(step) if name is None else name
        if self.folder is None or not self.folder.exists(name):
            return None
        try:
            content = self.folder.read(name)
            note = trees.read_note(content)
            if (note.get("fit"), note.get("step")) != (self.folder.name, step) or not _is_time(note.get("seconds")):
                raise ValueError("it is of another fit")
            model = trees.load(content, self.blank)
        except (OSError, ValueError) as error:
            logging.warning("starting over: %s/%s cannot be used: %s", self.folder, name, error)
            return None
        return Fitted(step, dataclasses.replace(model, encode=self.learner.encode), note["seconds"])

    def keep(self, found: Fitted, name: str | None = None) -> bool:
        """Writes a model along the fit, or by its name the last one. A full disk is only warned of."""
        if self.folder is None or not self.writes:
            return False
        note = {"fit": self.folder.name, "learner": identity.describe(self.learner), "source": self.source.asdict()}
        note |= {"step": found.step, "seconds": found.seconds}
        return _write(self.folder, name or _file(found.step), trees.dump(found.model, note))

    def end(self, found: Fit) -> None:
        """Writes the last model and, after it, what says that the fit has ended."""
        if self.keep(found.end, _LAST) and self.folder is not None:
            size = self.source.asdict()
            work = self.learner.work(self.source.num_train, size["input_dim"], self.task.width)
            note: dict[str, Any] = {"learner": identity.describe(self.learner), "source": size, "step": found.end.step}
            note |= {"seconds": found.end.seconds, "compile_seconds": found.compile_seconds, "device": found.device}
            text = json.dumps(results.plain(note | {"work": float(work)} | results.provenance()), indent=1)
            _write(self.folder, _ENDED, text.encode())


def _write(folder: Folder, name: str, content: bytes) -> bool:
    try:
        folder.write(name, content)
    except OSError as error:
        logging.warning("going on without saving the fit: %s", error)
        return False
    return True


def _ended(folder: Folder) -> dict[str, Any] | None:
    """What a finished fit says of itself; None where it has not finished, or its file is damaged."""
    try:
        note = json.loads(folder.read(_ENDED))
        times = all(_is_time(note[name]) for name in ("seconds", "compile_seconds"))
        if times and isinstance(note["step"], int) and isinstance(note["device"], str) and 0 < note["work"] < 1e30:
            return note
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    logging.warning("starting over: %s/%s is damaged", folder, _ENDED)
    return None


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9_]", "", name.lower())


def _file(step: int) -> str:
    return f"{step:06d}.safetensors"

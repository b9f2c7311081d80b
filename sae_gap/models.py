"""Fit once, whoever asks: fitted models on disk, shared by all studies.

A fit has a folder of its own, named by all that decides it: the learner with its hyper-parameters and its bases, the source
with its seed, the precision, the kind of device, the versions of the libraries and the code that runs. In it lie models along
the fit, `<step>.npz`, the last one, `<step>-end.npz`, and while it lasts the state that a killed fit goes on from, `state.npz`.
What is damaged or belongs elsewhere is noticed and fitted again.
"""

import dataclasses
import itertools
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import logging

from sae_gap import checkpoints, devices, identity, results
from sae_gap.checkpoints import Checkpoint
from sae_gap.fitting import Fitted, blank_model, fit, goes_side_by_side
from sae_gap.learners.base import Learner
from sae_gap.recording import Source
from sae_gap.types import Model, Task

# Part of every key: raise it when files change their form or their meaning.
SCHEMA = 1
# Of a fit that nothing is known of, on one core.
_SECONDS_PER_MULTIPLY = 1e-10


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished fit.

    Attributes:
      end: the last model.
      along: models at the steps that were asked for and lie before the end.
      compile_seconds: of the program that fitted it.
      device: on which it was fitted, in words: its seconds are that device's.
    """

    end: Fitted
    along: Mapping[int, Fitted]
    compile_seconds: float
    device: str

    def at(self, step: int | None) -> Fitted:
        """The model at a step, or the last one, which is that of every later step as well."""
        return self.end if step is None or step >= self.end.step else self.along[step]


class Models:
    """A folder of fitted models, or none, where every fit lasts as long as whoever asked for it.

    Args:
      directory: the folder, made when there is something to keep; None keeps nothing.
      every: seconds between two saves of the state of a fit, about.
    """

    def __init__(self, directory: str | pathlib.Path | None = None, *, every: float = 60.0):
        self.directory = None if directory is None else pathlib.Path(directory)
        self.every = every

    def size(self) -> int:
        """Bytes of all files in the folder."""
        if self.directory is None:
            return 0
        return sum(path.stat().st_size for path in self.directory.glob("*/*") if path.is_file())

    def folder(self, learner: Learner, source: Source) -> pathlib.Path | None:
        """Where a fit lies or would lie; None for one that takes no step, which is as soon done as read."""
        if self.directory is None or not learner.num_steps:
            return None
        return self.directory / f"{_safe(learner.name)}-{_key(learner, source)}"

    def missing(self, learner: Learner, source: Source, at: Sequence[int] = ()) -> list[Learner]:
        """What has to be fitted before the models at these steps are there, bases first, by the names of the files alone."""
        before = [] if learner.base is None else self.missing(learner.base, source)
        folder = self.folder(learner, source)
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
    ) -> list[Outcome]:
        """The fits of a learner to sources that differ in their seed, read where they are there and fitted where not.

        Args:
          learner: what to fit; its bases are fitted first, through this store.
          sources: what names the fits.
          tasks: the data of each source.
          at: steps whose models are wanted beside the last.
          watch: called now and then with a learner that is fitted, the number of the source and the steps taken.

        Returns:
          An outcome for each source.
        """
        bases = None
        if learner.base is not None:
            bases = [outcome.end.model for outcome in self.fit(learner.base, sources, tasks, watch=watch)]
        keys = [_random_key(learner, task) for task in tasks]
        folders = [self.folder(learner, source) for source in sources]
        given = [None] * len(tasks) if bases is None else bases
        likes = [_Like(learner, task, key, base) for task, key, base in zip(tasks, keys, given, strict=True)]
        found = [None if folder is None else _load(folder, like, at) for folder, like in zip(folders, likes, strict=True)]
        absent = [i for i, outcome in enumerate(found) if outcome is None]
        if absent:
            fitted = self._fit(learner, absent, sources, tasks, keys, folders, likes, bases, at, watch)
            for i, outcome in zip(absent, fitted, strict=True):
                found[i] = outcome
        return [outcome for outcome in found if outcome is not None]

    def _fit(self, learner, absent, sources, tasks, keys, folders, likes, bases, at, watch, *, afresh=False) -> list[Outcome]:
        wanted = sorted({*at, *(step for step in learner.landmarks if folders[absent[0]] is not None)})
        notes = [_note(learner, source, folder) for source, folder in zip(sources, folders, strict=True)]
        along: list[dict[int, Fitted]] = [{} for _ in absent]

        def keep(place: int, one: Fitted) -> None:
            along[place][one.step] = one
            folder = folders[absent[place]]
            if folder is not None:
                note = notes[absent[place]] | {"step": one.step, "seconds": one.seconds, "ended": False}
                checkpoints.write(folder / _file(one.step), {"model": one.model}, note)

        saves = None
        if folders[absent[0]] is not None:
            saves = [Checkpoint(folders[i] / "state.npz", self.every, folders[i].name) for i in absent]
            if goes_side_by_side(learner):
                # One file holds all seeds.
                name = results.key({"fits": [save.name for save in saves]})
                saves = [Checkpoint(folders[absent[0]] / f"state-{name}.npz", self.every, name)] * len(absent)
            if afresh:
                for save in saves:
                    save.discard()
            for i in absent:
                results.sweep(folders[i])
        fitted = fit(
            learner,
            [tasks[i] for i in absent],
            [keys[i] for i in absent],
            at=wanted,
            bases=None if bases is None else [bases[i] for i in absent],
            checkpoints=saves,
            keep=keep,
            watch=None if watch is None else lambda place, steps: watch(learner, absent[place], steps),
        )
        outcomes, lost = [], False
        for place, i in enumerate(absent):
            end = Fitted(fitted.num_steps[place], fitted.models[place], fitted.fit_seconds[place])
            if folders[i] is not None:
                note = notes[i] | {"step": end.step, "seconds": end.seconds, "ended": True}
                note |= {"compile_seconds": fitted.compile_seconds, "device": devices.describe()}
                checkpoints.write(folders[i] / _file(end.step, end=True), {"model": end.model}, note)
                # Of a run that was killed when other seeds were fitted beside this one, by whose names its file went.
                for stale in folders[i].glob("state*.npz"):
                    stale.unlink(missing_ok=True)
            if saves is not None:
                saves[place].discard()
                # What was kept before the state that this fit went on from, by a process that was killed or runs beside it.
                for step in at:
                    if step < end.step and step not in along[place]:
                        kept = _read(folders[i] / _file(step), likes[i], step, ended=False)
                        along[place] |= {} if kept is None else {step: kept[0]}
                        lost |= kept is None
            outcomes.append(Outcome(end, along[place], fitted.compile_seconds, devices.describe()))
        if lost and not afresh:
            logging.warning("fitting %s again: models along the fit are damaged", learner.name)
            return self._fit(learner, absent, sources, tasks, keys, folders, likes, bases, at, watch, afresh=True)
        return outcomes


class _Like:
    """The shapes of a model, found only if there is a file to read."""

    def __init__(self, learner: Learner, task: Task, key, base: Model | None):
        self.learner, self._given = learner, (learner, task, key, base)

    def model(self) -> Model:
        return blank_model(*self._given)


def _random_key(learner: Learner, task: Task):
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


def _note(learner: Learner, source: Source, folder: pathlib.Path | None) -> dict[str, Any]:
    name = "" if folder is None else folder.name
    size = source.asdict()
    work = learner.work(source.num_train, size["input_dim"], size["num_latents"])
    return {"fit": name, "learner": identity.describe(learner), "source": size, "work": float(work)}


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9_]", "", name.lower())


def _file(step: int, *, end: bool = False) -> str:
    return f"{step:06d}{'-end' if end else ''}.npz"


def _ends(folder: pathlib.Path | None) -> list[tuple[int, pathlib.Path]]:
    """The last step of a finished fit and its file, by the name alone: one, unless someone put more there."""
    paths = [] if folder is None else folder.glob("*-end.npz")
    found = [(re.fullmatch(r"(\d{6,18})-end\.npz", path.name), path) for path in paths]
    return sorted((int(match[1]), path) for match, path in found if match)


def _read(path: pathlib.Path, like: _Like, step: int, *, ended: bool) -> tuple[Fitted, dict[str, Any]] | None:
    if not path.exists():
        return None
    saved = checkpoints.read(path, {"model": like.model()})
    if saved is None:
        return None
    note = saved.note
    own = (note.get("fit"), note.get("step"), note.get("ended")) == (path.parent.name, step, ended)
    seconds = [note.get("seconds"), *([note.get("compile_seconds")] if ended else [])]
    if not own or not all(isinstance(value, float) and math.isfinite(value) for value in seconds):
        logging.warning("starting over: %s is of another fit", path)
        return None
    model = dataclasses.replace(saved.parts["model"], encode=like.learner.encode)
    return Fitted(step, model, note["seconds"]), note


def _load(folder: pathlib.Path, like: _Like, at: Sequence[int]) -> Outcome | None:
    """A finished fit with the models at the steps wanted, or None if any of them is not there."""
    read = (_read(path, like, step, ended=True) for step, path in _ends(folder))
    ended = next((found for found in read if found is not None), None)
    if ended is None:
        return None
    end, note = ended
    along = {}
    for step in at:
        if step < end.step:
            found = _read(folder / _file(step), like, step, ended=False)
            if found is None:
                return None
            along[step] = found[0]
    return Outcome(end, along, note["compile_seconds"], str(note.get("device"))[:200])


__all__ = ["Models", "Outcome"]

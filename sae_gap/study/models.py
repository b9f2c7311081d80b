"""Fitted models on disk, shared by all studies, so that each is fitted only once.

A fit has a folder, named after everything that decides it: the learner with its hyper-parameters,
its version and its bases, the source with its seed, the precision and the kind of device. The
folder holds models along the fit, `<step>.safetensors`, of activations only those that were asked
for; the last one, `fit.safetensors`, followed by `fit.json`, which says that the fit has ended; and
during the fit the state from which a killed fit resumes, `state.safetensors`. A file that is
damaged or of another fit is detected, and fitted again.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from json import dumps, loads
from typing import Any

import jax
from absl import logging
from jax.random import fold_in
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from sae_gap.core import AnyPath, Model, Task, identity
from sae_gap.core.identity import describe, precision
from sae_gap.data import Source
from sae_gap.learners import Learner
from sae_gap.runtime import devices, distributed
from sae_gap.storage import Checkpoint, Folder, digests, provenance, trees
from sae_gap.study import Fit, Fitted, blank_model, fit

_LAST = "fit.safetensors"
_ENDED = "fit.json"
# Errors from files that are not ours.
_DAMAGE = (ValueError, KeyError, TypeError)
# Is told a learner, the source of its fit, and the share of the steps that is taken.
Watch = Callable[[Learner, Source, float], None]


class Models:
    """A folder of fitted models, or none, so that fits are not kept.

    Args:
      directory: the folder, a path or the URL of one in a bucket, made when there is something to
        keep; None keeps nothing.
    """

    def __init__(self, directory: AnyPath | Folder | None = None):
        self.directory = None if directory is None else Folder(directory)

    def folder(self, learner: Learner, source: Source) -> Folder | None:
        """The folder of a fit, existing or not; None for learners without steps, which refit as
        fast as models load.
        """
        if not (self.directory and learner.num_steps):
            return None
        decides = {
            "learner": describe(learner),
            # The scored rows do not decide a fit.
            "source": getattr(source, "seen", source.asdict)(),
            "numerics": identity.NUMERICS,
            "precision": precision(),
            "platform": jax.default_backend(),
        }
        name = re.sub(r"[^a-z0-9_]", "", learner.name.lower())
        return self.directory / f"{name}-{digests.key(decides)}"

    def missing(
        self, learner: Learner, source: Source, at: Sequence[int] = ()
    ) -> list[Learner]:
        """The learners to fit before the models at these steps exist, bases first, judged by file
        names alone.
        """
        before = self.missing(learner.base, source) if learner.base else []
        if not learner.num_steps:
            return before
        folder = self.folder(learner, source)
        try:
            if folder:
                last = loads(folder.read(_ENDED))["step"]
                if all(step >= last or folder.exists(_file(step)) for step in at):
                    return before
        except (FileNotFoundError, *_DAMAGE):
            pass
        return [*before, learner]

    def fit(
        self,
        learner: Learner,
        sources: Sequence[Source],
        tasks: Sequence[Task],
        at: Sequence[int] = (),
        *,
        mesh: Mesh | None = None,
        watch: Watch = lambda *_: None,
    ) -> list[Fit]:
        """The fits of a learner to sources that differ in their seed, read from disk if they are
        there and fitted if not.

        Args:
          learner: the learner to fit; its bases are fitted first, through this store.
          sources: sources that name the fits.
          tasks: the data of each source.
          at: requested steps, beside the last.
          mesh: the devices to fit on, as for `fit`; if it spans processes, all must make the same
            call, and the first one writes.
          watch: called with a learner that is fitted, its base included, the source and the share
            of its steps that is taken, as `fit` calls its own.

        Returns:
          A fit for each source.
        """
        if learner.ready:
            end = Fitted(0, learner.ready, 0.0)
            return [Fit(end, {}, 0.0, devices.describe()) for _ in tasks]
        bases: Sequence[Fit | None] = [None] * len(tasks)
        if learner.base:
            bases = self.fit(learner.base, sources, tasks, mesh=mesh, watch=watch)
        together = mesh and devices.spans_processes(mesh)
        writes = not together or distributed.is_first()
        kept = [
            _Kept(learner, source, task, base, self.folder(learner, source), writes)
            for source, task, base in zip(sources, tasks, bases, strict=True)
        ]
        fits = {place: seed.load(at) for place, seed in enumerate(kept)}
        absent = [place for place, stored in fits.items() if stored is None]
        if together:
            absent = sorted(set().union(*distributed.gather(absent)))
        if absent:
            made = _fit([kept[place] for place in absent], at, mesh, watch)
            fits |= zip(absent, made, strict=True)
        return [fits[place].on(base) for place, base in enumerate(bases)]  # type: ignore[union-attr]


@dataclass(frozen=True)
class _Kept:
    """A fit of one seed: the data that decide it, and its folder; without one nothing is read or
    kept.
    """

    learner: Learner
    source: Source
    task: Task
    base: Fit | None
    folder: Folder | None
    writes: bool

    @cached_property
    def key(self) -> PRNGKeyArray:
        """A random key from the seed and the learner's class, so that two classes do not share
        their noise on one seed.
        """
        stream = int(digests.key({"learner": type(self.learner).__name__})[:7], 16)
        return fold_in(jax.random.key(self.task.seed), stream)

    @cached_property
    def about(self) -> dict[str, Any]:
        """The learner and the source, as described in its files."""
        return {
            "learner": describe(self.learner),
            "source": self.source.asdict(),
        }

    @cached_property
    def blank(self) -> Model:
        """The shapes of its model."""
        return blank_model(self.learner, self.task, self.key, self.start)

    @property
    def start(self) -> Model | None:
        """The model of its base."""
        return self.base.end.model if self.base else None

    def load(self, at: Sequence[int]) -> Fit | None:
        """The finished fit with the models at these steps, or None if any of them is missing."""
        if not self.folder:
            return None
        try:
            note = loads(self.folder.read(_ENDED))
            end = self._read(self.folder, note["step"], _LAST)
            fitted = Fit(end, {}, note["compile_seconds"], note["device"])
            return self.complete(fitted, at)
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            logging.warning("starting over: %s cannot be used: %s", self.folder, error)
            return None

    def complete(self, fitted: Fit, at: Sequence[int]) -> Fit:
        """A fit with the models at these steps, missing ones read from their files."""
        along = dict(fitted.along)
        for step in at:
            if self.folder and step < fitted.end.step and step not in along:
                along[step] = self._read(self.folder, step, _file(step))
        return replace(fitted, along=along)

    def _read(self, folder: Folder, step: int, name: str) -> Fitted:
        """The model at a step, from a file of that name; raises a ValueError if it is damaged or of
        another fit.
        """
        content = folder.read(name)
        note = trees.read_note(content)
        if note.get("fit") != folder.name or note.get("step") != step:
            raise ValueError(f"{name} is of another fit")
        model = trees.load(content, self.blank)
        model = replace(model, encode=self.learner.encode)
        return Fitted(step, model, note["seconds"])

    def keep(self, fitted: Fitted, name: str) -> None:
        """Writes a model to a file of that name."""
        if self.folder and self.writes:
            note = {
                "fit": self.folder.name,
                "step": fitted.step,
                "seconds": fitted.seconds,
            }
            # `load_sae` reads the model's encoder from this description.
            _write(self.folder, name, trees.dump(fitted.model, note | self.about))

    def end(self, fitted: Fit) -> None:
        """Writes the last model, followed by the note that the fit has ended."""
        if self.folder and self.writes:
            self.keep(fitted.end, _LAST)
            note = {
                **self.about,
                "step": fitted.end.step,
                "seconds": fitted.end.seconds,
                "compile_seconds": fitted.compile_seconds,
                "device": fitted.device,
                **provenance(),
            }
            text = dumps(digests.plain(note), indent=1)
            _write(self.folder, _ENDED, text.encode())


def _fit(
    kept: Sequence[_Kept], at: Sequence[int], mesh: Mesh | None, watch: Watch
) -> list[Fit]:
    """Fits one learner to all tasks, and keeps the models that have a folder."""
    learner = kept[0].learner
    saves = [
        Checkpoint(seed.folder, fit=seed.folder.name) for seed in kept if seed.folder
    ]
    steps = set(at)
    # Studies of drawn data share models along a fit; those of activations are large.
    if saves and not hasattr(kept[0].source, "seen"):
        steps.update(learner.snapshots)
    fits = fit(
        learner,
        [seed.task for seed in kept],
        [seed.key for seed in kept],
        at=sorted(steps),
        bases=[seed.start for seed in kept if seed.start] or None,
        checkpoints=saves or None,
        keep=lambda place, fitted: kept[place].keep(fitted, _file(fitted.step)),
        watch=lambda place, share: watch(learner, kept[place].source, share),
        mesh=mesh,
    )
    pairs = list(zip(kept, fits, strict=True))
    for seed, fitted in pairs:
        seed.end(fitted)
    for save in saves:
        save.discard()
    try:
        # A killed process kept the models before the state from which this fit resumed.
        return [seed.complete(fitted, at) for seed, fitted in pairs]
    except (FileNotFoundError, ValueError):
        logging.warning(
            "fitting %s again: models along the fit are damaged", learner.name
        )
        return _fit(kept, at, mesh, watch)


def _write(folder: Folder, name: str, content: bytes) -> None:
    """Writes a file; a full disk causes only a warning, and readers notice what is missing."""
    try:
        folder.write(name, content)
    except OSError as error:
        logging.warning("going on without saving the fit: %s", error)


def _file(step: int) -> str:
    return f"{step:06d}.safetensors"

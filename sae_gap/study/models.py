"""Fitted models on disk, shared by all studies, so that each is fitted only once.

A fit has a folder, named after everything that decides it: the learner with its hyper-parameters,
its version and its bases, the source with its seed, the precision and the kind of device. The
folder holds models along the fit, `<step>.safetensors`, of activations only those that were asked
for; the last one, `fit.safetensors`, followed by `fit.json`, which says that the fit has ended; and
during the fit the state from which a killed fit resumes, `state.safetensors`. A file that is
damaged or of another fit is detected, and fitted again.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from sae_gap.core import AnyPath, Task, identity
from sae_gap.data import Source
from sae_gap.learners import Learner
from sae_gap.runtime import devices, distributed
from sae_gap.storage import Checkpoint, Folder, results, trees
from sae_gap.study import Fit, Fitted, blank_model, fit

_LAST = "fit.safetensors"
_ENDED = "fit.json"
# Errors from files that are not ours.
_DAMAGE = (ValueError, KeyError, TypeError)


def _ignore(*_):
    pass


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
        if self.directory is None or not learner.num_steps:
            return None
        decides = {
            "learner": identity.describe(learner),
            # The scored rows do not decide a fit.
            "source": getattr(source, "seen", source.asdict)(),
            "numerics": identity.NUMERICS,
        }
        name = re.sub(r"[^a-z0-9_]", "", learner.name.lower())
        where = {"precision": identity.precision(), "platform": jax.default_backend()}
        return self.directory / f"{name}-{results.key(decides | where)}"

    def missing(
        self, learner: Learner, source: Source, at: Sequence[int] = ()
    ) -> list[Learner]:
        """The learners to fit before the models at these steps exist, bases first, judged by file
        names alone.
        """
        before = [] if learner.base is None else self.missing(learner.base, source)
        if not learner.num_steps:
            return before
        folder = self.folder(learner, source)
        try:
            if folder is not None:
                last = json.loads(folder.read(_ENDED))["step"]
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
        watch: Callable[[Learner, Source, float], None] = _ignore,
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
        if learner.ready is not None:
            end = Fitted(0, learner.ready, 0.0)
            return [Fit(end, {}, 0.0, devices.describe()) for _ in tasks]
        options: Any = {"mesh": mesh, "watch": watch}
        bases: Any = [None] * len(tasks)
        if learner.base is not None:
            bases = self.fit(learner.base, sources, tasks, **options)
        together = mesh is not None and devices.spans_processes(mesh)
        writes = not together or distributed.is_first()
        wanted = [
            _Wanted(learner, source, task, base, self.folder(learner, source), writes)
            for source, task, base in zip(sources, tasks, bases, strict=True)
        ]
        fits = [each.load(at) for each in wanted]
        absent = [place for place, stored in enumerate(fits) if stored is None]
        if together:
            absent = sorted(
                {place for places in distributed.gather(absent) for place in places}
            )
        if absent:
            made = self._fit([wanted[place] for place in absent], at, **options)
            for place, fitted in zip(absent, made, strict=True):
                fits[place] = fitted
        return [fitted.on(base) for fitted, base in zip(fits, bases, strict=True)]

    def _fit(self, wanted, at, mesh, watch):
        """Fits one learner to all requested tasks, and keeps the models that have a folder."""
        learner = wanted[0].learner
        saves = [
            Checkpoint(each.folder, fit=each.folder.name)
            for each in wanted
            if each.folder
        ]
        # Studies of drawn data share models along a fit; those of activations are large.
        shared = (
            () if hasattr(wanted[0].source, "seen") or not saves else learner.snapshots
        )
        fits = fit(
            learner,
            [each.task for each in wanted],
            [each.key for each in wanted],
            at=sorted({*at, *shared}),
            bases=[each.base.end.model for each in wanted if each.base] or None,
            checkpoints=saves or None,
            keep=lambda place, fitted: wanted[place].keep(fitted, _file(fitted.step)),
            watch=lambda place, share: watch(learner, wanted[place].source, share),
            mesh=mesh,
        )
        for each, fitted in zip(wanted, fits, strict=True):
            each.end(fitted)
        for save in saves:
            save.discard()
        try:
            # A killed process kept the models before the state from which this fit resumed.
            return [
                each.complete(fitted, at)
                for each, fitted in zip(wanted, fits, strict=True)
            ]
        except (FileNotFoundError, ValueError):
            logging.warning(
                "fitting %s again: models along the fit are damaged", learner.name
            )
            return self._fit(wanted, at, mesh, watch)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A fit of one seed: the data that decide it, and its folder; without one nothing is read or
    kept.
    """

    learner: Learner
    source: Source
    task: Task
    base: Any
    folder: Any
    writes: bool

    @functools.cached_property
    def key(self):
        """A random key from the seed and the learner's class, so that two classes do not share
        their noise on one seed.
        """
        stream = int(results.key({"learner": type(self.learner).__name__})[:7], 16)
        return jax.random.fold_in(jax.random.key(self.task.seed), stream)

    @functools.cached_property
    def about(self):
        """The learner and the source, as described in its files."""
        return {
            "learner": identity.describe(self.learner),
            "source": self.source.asdict(),
        }

    @functools.cached_property
    def blank(self):
        """The shapes of its model."""
        return blank_model(
            self.learner, self.task, self.key, self.base and self.base.end.model
        )

    def load(self, at):
        """The finished fit with the models at these steps, or None if any of them is missing."""
        if self.folder is None:
            return None
        try:
            note = json.loads(self.folder.read(_ENDED))
            end = self.read(note["step"], _LAST)
            return self.complete(
                Fit(end, {}, note["compile_seconds"], note["device"]), at
            )
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            logging.warning("starting over: %s cannot be used: %s", self.folder, error)
            return None

    def complete(self, fit, at):
        """A fit with the models at these steps, missing ones read from their files."""
        lacking = [step for step in at if step < fit.end.step and step not in fit.along]
        stored = {step: self.read(step, _file(step)) for step in lacking}
        return dataclasses.replace(fit, along={**fit.along, **stored})

    def read(self, step, name):
        """The model at a step, from a file of that name; raises a ValueError if it is damaged or of
        another fit.
        """
        content = self.folder.read(name)
        note = trees.read_note(content)
        if (note.get("fit"), note.get("step")) != (self.folder.name, step):
            raise ValueError(f"{name} is of another fit")
        model = trees.load(content, self.blank)
        return Fitted(
            step,
            dataclasses.replace(model, encode=self.learner.encode),
            note["seconds"],
        )

    def keep(self, fitted, name):
        """Writes a model to a file of that name."""
        if self.folder is not None and self.writes:
            note = {
                "fit": self.folder.name,
                "step": fitted.step,
                "seconds": fitted.seconds,
            }
            # `load_sae` reads the model's encoder from this description.
            _write(self.folder, name, trees.dump(fitted.model, note | self.about))

    def end(self, fit):
        """Writes the last model, followed by the note that the fit has ended."""
        if self.folder is not None and self.writes:
            self.keep(fit.end, _LAST)
            note = {
                **self.about,
                "step": fit.end.step,
                "seconds": fit.end.seconds,
                "compile_seconds": fit.compile_seconds,
                "device": fit.device,
                **results.provenance(),
            }
            _write(
                self.folder, _ENDED, json.dumps(results.plain(note), indent=1).encode()
            )


def _write(folder, name, content):
    """Writes a file; a full disk causes only a warning, and readers notice what is missing."""
    try:
        folder.write(name, content)
    except OSError as error:
        logging.warning("going on without saving the fit: %s", error)


def _file(step):
    return f"{step:06d}.safetensors"

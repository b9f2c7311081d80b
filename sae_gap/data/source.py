"""What gives a study its data: a setting, a world, a recording, or a class of a user's own."""

from typing import Any, Protocol, runtime_checkable

from sae_gap.core import Task, check_sequence, shown

_MEND = "give settings, worlds or recordings"


@runtime_checkable
class Source(Protocol):
    """A source of a study's data: a `Setting`, a `World`, or anything else with a seed, a
    dimension, values that tell it from others, and `task()`.
    """

    @property
    def seed(self) -> int:
        """Seeds the learners; sources that differ only in it are fitted together."""

    @property
    def input_dim(self) -> int | None:
        """Dimension of the signals."""

    def asdict(self) -> dict[str, Any]:
        """Returns the values that decide the data, as in rows and keys."""

    def task(self) -> Task:
        """Returns the data."""


def draw(setting: Source) -> Task:
    """Returns the data of a setting, a world, a recording or another source.

    Args:
      setting: the source, its seed included, such as `sae_gap.Setting(num_latents, sparsity)`;
        `Setting.task` says what that draws.

    Raises:
      TypeError: it is no source.
    """
    _check_source("setting", setting)
    return setting.task()


def check_sources(sources: Any) -> None:
    """Raises a TypeError or a ValueError unless it is a list of sources; it reads none of them."""
    check_sequence("sources", sources, object, _MEND)
    for place, source in enumerate(sources):
        _check_source(f"sources[{place}]", source)


def _check_source(name: str, source: Any) -> None:
    if not hasattr(type(source), "task"):
        raise TypeError(
            f"{name} must be a setting, a world or a recording, but it is {shown(source)}; {_MEND}."
        )

"""Activations in a bucket, copied once into the user's cache: rows are read in random order and several times, and each time
would be a request from afar.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sae_gap.runtime import devices
from sae_gap.storage import stores


def fetch(path: str | os.PathLike[str], beside: Sequence[str] = ()) -> Path:
    """A file, or a folder of files, to read: a path as it is, and for a URL its copy in the user's cache.

    It is copied once for each version of its objects, in the place of an earlier one.

    Args:
      path: path or URL.
      beside: names of files that belong to a file and lie in its folder, if they are there.

    Raises:
      ValueError: nothing is there, it cannot be read, does not fit on the disk, or what reads it is not installed.
    """
    parts = stores.parse(path)
    if parts is None:
        return Path(path)
    url = "{}://{}".format(*parts)
    store, remote = stores.connect(url)
    try:
        store.invalidate_cache()
        found = store.info(remote)
        if found["type"] == "file":
            inside = stores.entries(store, remote.rpartition("/")[0]) if beside else []
            entries = [found, *(entry for entry in inside if PurePosixPath(entry["name"]).name in beside)]
        else:
            entries = [entry for entry in stores.entries(store, remote) if entry["type"] == "file"]
        versions = sorted((entry["name"], str(stores.version(store, entry["name"]))) for entry in entries)
    except FileNotFoundError:
        raise ValueError(f"{url} is neither a file nor a folder; give the path of activations.") from None
    except Exception as error:
        raise ValueError(f"{url} cannot be read ({stores.reason(error)}); check its name and your credentials.") from error
    place = devices.cache_home() / "sae_gap" / "buckets" / _digest(url)
    copy = place / _digest(repr(versions))
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Several processes of one machine may want the same file at once.
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_dir():
                _copy(store, entries, url, place, copy)
    except OSError as error:
        raise ValueError(f"{url} cannot be copied to {place} ({error}); free some space or choose XDG_CACHE_HOME.") from error
    return copy / PurePosixPath(remote).name if found["type"] == "file" else copy


def _copy(store: Any, entries: Sequence[dict[str, Any]], url: str, place: Path, copy: Path) -> None:
    for old in place.glob("*"):
        shutil.rmtree(old)
    needed, free = sum(entry["size"] for entry in entries), shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"{url} takes {needed / 2**30:.1f} GiB, but there are {free / 2**30:.1f} in {place}; choose XDG_CACHE_HOME."
        )
    with tempfile.TemporaryDirectory(dir=place) as draft:
        inner = Path(draft) / "whole"
        inner.mkdir()
        for entry in entries:
            try:
                store.get_file(entry["name"], str(inner / PurePosixPath(entry["name"]).name))
            except OSError:
                raise
            except Exception as error:
                raise ValueError(f"{url} cannot be read ({stores.reason(error)}); check your credentials.") from error
        inner.rename(copy)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


__all__ = ["fetch"]

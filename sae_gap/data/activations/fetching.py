"""Copies activations from a bucket into the user's cache: rows are read in random order and more
than once, and each read would be a request.
"""

import os
from pathlib import Path, PurePosixPath
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

from sae_gap.core import brief, check_path
from sae_gap.data import DOCUMENTS
from sae_gap.runtime import devices
from sae_gap.storage import connect, digest


def fetched(path: str | os.PathLike[str]) -> Path:
    """Returns a path unchanged; for the URL of a file or a folder in a bucket, the path of its copy
    in the user's cache.

    Each version of the objects is copied once and replaces the earlier one. The copy of an .npy
    file includes the file of its documents.

    Args:
      path: a path, where `~` is the user's home, or a URL such as gs://bucket/folder or
        s3://bucket/rows.npy.

    Raises:
      TypeError: it is no path.
      ValueError: nothing is there, it cannot be copied, or fsspec is not installed.
    """
    local = check_path("path", path)
    url = os.fspath(path)
    if "://" not in url:
        return local
    store = connect(url)
    cache = devices.cache_home() / "sae_gap" / "buckets"
    remote = store._strip_protocol(url.rstrip("/"))
    try:
        store.invalidate_cache()
        companion = str(PurePosixPath(remote).with_suffix(f".{DOCUMENTS}.npy"))
        is_folder = store.isdir(remote)
        files = (
            store.find(remote, maxdepth=1)
            if is_folder
            else [remote, *filter(store.exists, [companion])]
        )
        place = cache / digest([url])
        copy = place / digest(f"{file} {_version(store, file)}" for file in files)
        if not copy.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=cache) as draft:
                whole = Path(draft) / "whole"
                whole.mkdir()
                for file in files:
                    store.get_file(file, str(whole / PurePosixPath(file).name))
                # Another process may have copied the same version meanwhile.
                if not copy.is_dir():
                    whole.rename(copy)
            for old in set(place.iterdir()) - {copy}:
                rmtree(old, ignore_errors=True)
    except FileNotFoundError:
        raise ValueError(
            f"{url} is neither a file nor a folder; give the URL of activations."
        ) from None
    except Exception as error:
        raise ValueError(
            f"{url} cannot be copied to {cache} ({brief(error)}); check its name, your credentials "
            "and the space on the disk."
        ) from error
    return copy if is_folder else copy / PurePosixPath(remote).name


def _version(store: Any, file: str) -> dict[str, Any]:
    """Returns what identifies an object's version, such as its ETag, time and size. The URL cannot:
    a server may sign it anew for each request.
    """
    return {name: value for name, value in store.info(file).items() if name != "url"}

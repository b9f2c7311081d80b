"""Object stores, gs:// and s3://: how an address is read, what lies in a folder, and which version of it.

The library that talks to them is fsspec, with gcsfs and s3fs behind it; they come with the extra `buckets`.
"""

import os
import re
from typing import Any

# The last two are for tests, and for who wants to try.
SCHEMES = ("gs", "s3", "file", "memory")
# What tells one version of an object from the next, by the names of one store or another.
_VERSION = ("ETag", "etag", "generation", "created", "mtime", "size")


def parse(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """The scheme of a URL and what follows, without slashes at its end; None for a path.

    Raises:
      ValueError: it is a URL, but none of a bucket.
    """
    text = os.fspath(path)
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", text)
    if match is None:
        return None
    rest = text[len(match[0]) + 1 :].rstrip("/")
    if match[1] not in SCHEMES or not text.startswith(f"{match[1]}://") or not rest or ".." in rest.split("/"):
        raise ValueError(f"{text!r} is no bucket that can be used; write it as gs://bucket/folder or s3://bucket/folder.")
    return match[1], rest


def connect(url: str) -> tuple[Any, str]:
    """The store of a URL, and the path in it.

    Raises:
      ValueError: it cannot be reached, or what talks to it is not installed.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url, **({"auto_mkdir": True} if url.startswith("file:") else {}))
    except ImportError:
        raise ValueError(f"{url} needs fsspec, gcsfs and s3fs; install them with pip install 'sae_gap[buckets]'.") from None
    except Exception as error:
        raise ValueError(f"{url} cannot be reached ({reason(error)}); check its name and your credentials.") from error


def entries(store: Any, remote: str) -> list[dict[str, Any]]:
    """What lies in a folder; nothing where there is none."""
    store.invalidate_cache()
    try:
        found = store.ls(remote, detail=True)
    except FileNotFoundError:
        return []
    # Some stores list the folder itself, by an object of no bytes.
    return [entry for entry in found if entry["name"].rstrip("/") != remote.rstrip("/")]


def version(store: Any, remote: str) -> tuple[str, ...] | None:
    """What tells an object from an earlier or later one in its place; None where there is none."""
    store.invalidate_cache()
    try:
        found = store.info(remote)
    except FileNotFoundError:
        return None
    return tuple(str(found[field]) for field in _VERSION if field in found)


def reason(error: Exception) -> str:
    """What went wrong in a store, in one line."""
    if isinstance(error, FileNotFoundError):
        # Some stores say no more than an address of theirs.
        return "it is not there"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".")[:200] or type(error).__name__


__all__ = ["SCHEMES", "connect", "entries", "parse", "reason", "version"]

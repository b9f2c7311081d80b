"""A folder of whole files, on disk or in a bucket. Nothing is ever appended to a file."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile
from typing import Any

from sae_gap.core import brief, check_path

# Age in seconds after which a killed process's draft is removed.
_STALE = 86_400


class BucketError(OSError):
    """The bucket refused; the message is a sentence."""


class Folder:
    """A folder, made when its first file is written.

    A reader finds the old content or the new, even if the writing process is killed.

    Args:
      path: a path, in which `~` is expanded, or a URL such as gs://bucket/folder, which needs
        fsspec.

    Attributes:
      local: its path on this machine; None in a bucket.

    Raises:
      ValueError: the URL cannot be used; the message says why.
    """

    def __init__(self, path: "str | os.PathLike[str] | Folder"):
        if isinstance(path, Folder):
            vars(self).update(vars(path), _swept=False)
            return
        local = check_path("directory", path)
        text = os.fspath(path)
        self._url = text.rstrip("/")
        self._swept = False
        self._bucket: Any = None
        self.local: Path | None = None
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
            self._bucket = connect(text)
        else:
            self.local = local

    def __str__(self) -> str:
        return str(self.local or self._url)

    def __truediv__(self, name: str) -> "Folder":
        """The folder of that name within this one."""
        inner = Folder(self)
        inner.local = self.local and self.local / name
        inner._url = f"{self._url}/{name}"
        return inner

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rpartition("/")[2]

    def names(self) -> list[str]:
        """The names of its files, sorted; none if the folder does not exist."""
        return [name for name, is_file in self._entries() if is_file]

    def folders(self) -> list[str]:
        """The names of its folders, sorted."""
        return [name for name, is_file in self._entries() if not is_file]

    def exists(self, name: str) -> bool:
        """True if there is a file of this name."""
        if self.local:
            return (self.local / name).is_file()
        with self._asking(name, "read"):
            self._bucket.invalidate_cache()
            return bool(self._bucket.isfile(self._remote(name)))

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
          FileNotFoundError: there is none.
          OSError: it cannot be read.
        """
        if self.local:
            try:
                return (self.local / name).read_bytes()
            except NotADirectoryError as error:
                raise FileNotFoundError(*error.args) from None
        with self._asking(name, "read"):
            return self._bucket.cat_file(self._remote(name))

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file, in place of an earlier one.

        Raises:
          OSError: it cannot be written; nothing is left behind.
        """
        if not self.local:
            with self._asking(name, "written"):
                self._bucket.pipe_file(self._remote(name), content)
            return
        draft = self.local / f".draft-{token_hex(8)}"
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            self._sweep(self.local)
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.local / name)
        except OSError as error:
            # For a full disk Python gives no name, otherwise the draft's.
            raise OSError(
                error.errno, error.strerror, str(self.local / name)
            ) from error
        finally:
            with suppress(OSError):
                draft.unlink()

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        if self.local:
            (self.local / name).unlink(missing_ok=True)
        elif self.exists(name):
            with self._asking(name, "removed"):
                self._bucket.rm_file(self._remote(name))

    def obstacle(self) -> str | None:
        """The reason why nothing can be written to it, or None. Only a trial write tells:
        permission bits do not.
        """
        try:
            if self.local:
                above = self.local.absolute().parents
                there = next(filter(os.path.lexists, (self.local, *above)))
                with TemporaryFile(dir=there) as probe:
                    probe.write(b"\n")
            else:
                probe_name = f".probe-{token_hex(8)}"
                self.write(probe_name, b"\n")
                self.remove(probe_name)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def require_writable(self) -> None:
        """Raises a ValueError if nothing can be written to it."""
        if obstacle := self.obstacle():
            raise ValueError(
                f"results cannot be written to {self} ({obstacle}); choose another folder."
            )

    def _entries(self) -> list[tuple[str, bool]]:
        """The name of each file and folder, and whether it is a file."""
        entries = []
        if not self.local:
            entries = self._listed()
        elif self.local.is_dir():
            entries = [(path.name, path.is_file()) for path in self.local.iterdir()]
        return sorted(entry for entry in entries if not entry[0].startswith("."))

    def _listed(self) -> list[tuple[str, bool]]:
        """The entries of a bucket."""
        with self._asking("", "read"):
            self._bucket.invalidate_cache()
            remote = self._remote("").rstrip("/")
            listed = []
            if self._bucket.exists(remote):
                listed = self._bucket.ls(remote, detail=True)
        entries = []
        for entry in listed:
            name = entry["name"].rstrip("/")
            # Some stores list the folder itself, as an object of no bytes.
            if name != remote:
                entries.append((name.rpartition("/")[2], entry["type"] == "file"))
        return entries

    def _sweep(self, folder: Path) -> None:
        """Removes, once, drafts of killed processes."""
        if not self._swept:
            self._swept = True
            for draft in folder.glob(".draft-*"):
                with suppress(OSError):
                    if time.time() - draft.stat().st_mtime > _STALE:
                        draft.unlink()

    def _remote(self, name: str) -> str:
        return f"{self._bucket._strip_protocol(self._url)}/{name}"

    @contextmanager
    def _asking(self, name: str, verb: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise BucketError(
                f"{self}/{name} cannot be {verb} ({brief(error)})."
            ) from error


def connect(url: str) -> Any:
    """The file system of a URL; nothing is read yet.

    Raises:
      ValueError: the URL cannot be used; the message says why.
    """
    if (
        "://" not in url
        or ".." in url.split("/")
        or not url.partition("://")[2].strip("/")
    ):
        raise ValueError(
            f"{url!r} is no bucket that can be used; write it as gs://bucket/folder or "
            "s3://bucket/folder."
        )
    try:
        from fsspec.core import url_to_fs

        options = {"auto_mkdir": True} if url.startswith("file:") else {}
        return url_to_fs(url, **options)[0]
    except ImportError:
        raise ValueError(
            f"{url} needs fsspec, gcsfs and s3fs; install them with pip install 'sae_gap[buckets]'."
        ) from None
    except Exception as error:
        raise ValueError(
            f"{url} cannot be reached ({error}); check its name and your credentials."
        ) from error

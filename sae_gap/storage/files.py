"""Files that are whole whenever a process is killed, in folders that are known to take them. Nothing here needs JAX."""

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from sae_gap.storage import buckets


def ensure_writable(directory: Path, path: Path) -> None:
    """Makes a folder for results, and tries whether it can be written to.

    Args:
      directory: the folder.
      path: a file in it that is to be written to, if it is there.

    Raises:
      ValueError: it cannot be; no folder is left that was not there.
    """
    refused = buckets.obstacle(directory)
    if refused is not None:
        raise ValueError(
            f"results cannot be written to {buckets.name(directory)} ({refused}); check its name and your rights to it."
        )
    made: list[Path] = []
    try:
        for folder in [*reversed(directory.parents), directory]:
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        # Permission bits do not tell (root, read-only mounts, quotas): only a write does.
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"\n")
        if path.exists():
            path.open("r+b").close()
    except OSError as error:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise ValueError(f"results cannot be written to {directory} ({error.strerror}); choose another folder.") from error


def obstacle(directory: str | os.PathLike[str]) -> str | None:
    """Why nothing can be written to a folder, there or yet to be made, or None where it can; asking makes nothing."""
    directory = Path(directory)
    there = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"\n")
    except OSError as error:
        return error.strerror
    return buckets.obstacle(directory)


def sync_folder(directory: Path) -> None:
    """Brings the names of a folder's files to disk, without which a new file may be lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def draft_of(path: Path) -> Path:
    """Where to write what is then renamed to a path: hidden beside it, and named after this process, see `sweep`."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}")


def sweep(directory: str | os.PathLike[str]) -> None:
    """Removes the drafts in a folder whose processes were killed: at once if they ran on this machine, else after a day.

    Args:
      directory: the folder, which need not be there.
    """
    for path in Path(directory).glob(".*"):
        match = re.fullmatch(r"\..+\.([0-9a-f]{8})-(\d{1,18})-[0-9a-f]{8}", path.name)
        # Another process may sweep as well.
        with contextlib.suppress(OSError):
            if match and (_is_gone(int(match[2])) if match[1] == _machine() else time.time() - path.stat().st_mtime > 86_400):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@functools.cache
def _machine() -> str:
    """What numbers of processes are numbers of: a machine, and there a container."""
    space = os.readlink("/proc/self/ns/pid") if os.path.islink("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        # Another user's, or no number of a process.
        return False
    return False


def write_atomically(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Replaces a file by new content; whoever reads it, or kills this process, finds the old content or the new.

    Args:
      path: the file; its folder must exist.
      content: all of its bytes.

    Raises:
      OSError: the folder cannot be written to; nothing is left behind. Or the bucket that it mirrors cannot.
    """
    path = Path(path)
    draft = draft_of(path)
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        if error.errno is None:
            raise
        # Of a full disk Python says no name, and else that of the draft.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        draft.unlink(missing_ok=True)
    buckets.push(path)


__all__ = ["draft_of", "ensure_writable", "obstacle", "sweep", "sync_folder", "write_atomically"]

"""A digest of files' content, which tells them apart."""

import hashlib
import pathlib


def file_digest(*paths: pathlib.Path) -> str:
    """Returns 16 hexadecimal digits of the content of files, taken one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:16]

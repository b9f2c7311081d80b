"""The figures of a study as they lie on disk: PNG files, each of which holds its caption in the text chunk `Description`."""

import io
import os
from typing import NamedTuple

import PIL.Image

from sae_gap.storage.folder import Folder


class Picture(NamedTuple):
    """A PNG file: its bytes, the caption that stands in it, and its size in pixels."""

    content: bytes
    caption: str
    width: int
    height: int


def read(folder: str | os.PathLike[str] | Folder, name: str) -> Picture:
    """Reads a PNG file, to its last pixel.

    Args:
      folder: where it is.
      name: of the file.

    Returns:
      The file, its caption and its size.

    Raises:
      ValueError: the file is not a PNG file, or is damaged.
      OSError: there is no such file.
    """
    content = Folder(folder).read(name)
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            # A chunk of text may stand behind the pixels.
            image.load()
            return Picture(content, str(getattr(image, "text", {}).get("Description", "")), *image.size)
    # Pillow's faults are any of these, according to the chunk that is damaged.
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"{folder}/{name} is not a PNG file or is damaged; delete it and run its study again.") from error


__all__ = ["Picture", "read"]

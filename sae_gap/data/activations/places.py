"""The folders of a recording, which `sae_gap.lm.record` writes and readers of activations know."""

from pathlib import Path
from re import fullmatch

# The file that says what was recorded.
ABOUT = "recording.json"


def block_folder(layer: int) -> str:
    """The folder of the residual stream after a block."""
    return f"block{layer}"


def mlp_folders(layer: int) -> tuple[str, str]:
    """The folders of what the MLP of a block reads, and of what it adds to the stream."""
    return f"mlp{layer}_in", f"mlp{layer}_out"


def read_by_mlp(path: Path) -> Path | None:
    """The file of what an MLP reads beside one of what it adds; None for other files."""
    place = fullmatch(r"mlp(\d+)_out", path.parent.name)
    return place and path.parents[1] / f"mlp{place[1]}_in" / path.name

"""Activations that a user brings: rows in files of any size, read in chunks, and split by the
documents they come from.

A file is opened by its header alone, and rows are read when they are asked for, so memory holds a
chunk and never the file. Arrays are memory-mapped where they lie uncompressed on disk: .npy,
.safetensors, .pt, Arrow, and .npz as `numpy.savez` writes it. A compressed .npz is read in order,
and Parquet a row group at a time.
"""

from sae_gap.data.activations.fetching import fetched
from sae_gap.data.activations.opening import open_activations, save_activations
from sae_gap.data.activations.rows import Activations

__all__ = ["Activations", "fetched", "open_activations", "save_activations"]

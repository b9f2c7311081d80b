"""Activations of one's own: rows in files of any size, read in chunks, and split by the documents that they come from.

A file is opened by its header alone, and rows are read when they are asked for, so that what is held is a chunk and not the
file. An array is memory-mapped where it lies on disk as it is: .npy, .safetensors, Arrow, and .npz as `numpy.savez` writes it.
A compressed .npz is read through in order, and Parquet a row group at a time.
"""

from sae_gap.data.activations.opening import fetched, open_activations, save_activations
from sae_gap.data.activations.rows import Activations

__all__ = ["Activations", "fetched", "open_activations", "save_activations"]

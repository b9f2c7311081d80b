"""A user's activations: rows in files of any size, read in chunks, and split by the documents that
they come from.

Opening a file reads its header alone, and rows are read on request, so memory holds a chunk and
never the file. Arrays are memory-mapped if they lie uncompressed on disk: .npy, .safetensors, .pt,
Arrow, and .npz as `numpy.savez` writes it. A compressed .npz is read whole; a Parquet file is
copied, uncompressed, to a temporary file.
"""

"""Binaries: each composes the library into one study or one measurement."""

import os

# Read when NumPy and SciPy load, hence before them. Threads pay for no host matrix of the suite but
# the largest, and cost the tiny ones of L-BFGS, on a busy machine, forty times their worth.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

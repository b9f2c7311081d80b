"""Binaries: each composes the library into one study or one measurement."""

import os

# NumPy and SciPy read it when they load, so set it before. Threads speed up only the suite's
# largest host matrices, and on a busy machine slow down the tiny ones of L-BFGS forty times.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

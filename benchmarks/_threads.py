"""One thread for the linear algebra of NumPy and SciPy, which must be said before they are loaded.

A study's own work on the host is many small steps, such as those of L-BFGS, which OpenBLAS slows up to tenfold by waking its
threads for each. Large products are JAX's, which has threads of its own. A value that is set already is kept.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

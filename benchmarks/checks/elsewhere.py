"""The coder of accelerators where there is none."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from sae_gap.solvers import coding


@contextlib.contextmanager
def accelerated() -> Iterator[None]:
    """Has `sparse_code` take the path of accelerators on a CPU, for small problems too."""
    with (
        mock.patch.object(coding, "_on_the_host", lambda arrays: False),
        mock.patch.object(coding, "SMALL_PROBLEM", 0),
    ):
        yield

"""The coder of accelerators where there is none."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from sae_gap.solvers import coding


@contextlib.contextmanager
def accelerated() -> Iterator[None]:
    """Has `sparse_code` take the path of accelerators on a CPU."""
    with mock.patch.object(coding, "_on_the_host", lambda arrays: False):
        yield

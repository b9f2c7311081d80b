"""The coder of accelerators where there is none."""

from contextlib import AbstractContextManager
from unittest import mock

from sae_gap.solvers import coding


def accelerated() -> AbstractContextManager:
    """Has `sparse_code` take the path of accelerators on a CPU."""
    return mock.patch.object(coding, "_on_the_host", lambda arrays: False)

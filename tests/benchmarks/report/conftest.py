"""The published numbers are read once: it takes a second, and a test compares many of them."""

import functools

import pytest

from sae_gap.analysis import published


@pytest.fixture(scope="package", autouse=True)
def read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "read", functools.cache(published.read))
        yield

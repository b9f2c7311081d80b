"""The catalogue of bugs is about the tree that it lies in."""

from pathlib import Path

import pytest

from tests.bugs import BUGS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted({bug[0] for bug in BUGS}))
def test_every_bug_has_one_place_and_tests_that_are_there(path):
    text = (ROOT / path).read_text()
    for _, old, new, tests in (bug for bug in BUGS if bug[0] == path):
        assert text.count(old) == 1 and old != new, old
        assert all((ROOT / test.partition("::")[0]).exists() for test in tests.split()), tests

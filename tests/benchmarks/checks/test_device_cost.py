"""Turns of loops are those that samples took, and a compiler that is not there is named."""

from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks.checks import device_cost as binary
from sae_gap.solvers import pivoting, working_set


def test_turns_are_those_of_the_sample_that_takes_most():
    # Of a shape of its own. The programs of other tests are kept.
    given = binary.draw(21, 17, 41, 3)
    with mock.patch.object(jax, "clear_caches"):
        solution, turns = binary.count(*given, lam=0.05)
    rounds = sum(n for (name, _), n in turns.items() if name == working_set.__name__)
    pivots = {slots: n for (name, slots), n in turns.items() if name == pivoting.__name__}
    # Each sample enters its atoms one pivot at a time; its first product comes before all rounds.
    sizes = np.sum(np.asarray(solution.codes) != 0, axis=1)
    assert np.all(solution.converged) and rounds >= np.max(solution.iterations) - 1
    assert sum(pivots.values()) >= sizes.max() + rounds - 1
    assert set(pivots) <= set(working_set.widths(17, 41))


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    def missing(*args, **options):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(binary.topologies, "get_topology_desc", missing)
    with pytest.raises(ValueError, match="no compiler for h100 is here; install jax-cuda13-pjrt"):
        binary.target("h100")

"""The problems that coders are timed on have the atoms, signals and weights that they say."""

import numpy as np

from benchmarks.speed import problems


def test_coherent_atoms_come_in_clusters():
    cell = problems.Cell(320, 5, 40, 0.0, world="coherent", input_dim=200)
    signals, dictionary, *_ = problems.draw(cell)
    assert signals.shape == (40, 200) and dictionary.shape == (200, 320)
    np.testing.assert_allclose(np.linalg.norm(signals, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=0), 1, rtol=1e-5)
    cosines, cluster = dictionary.T @ dictionary, np.arange(320) // 16
    same = (cluster[:, None] == cluster) & ~np.eye(320, dtype=bool)
    assert abs(cosines[same].mean() - 0.5) < 0.03
    assert abs(cosines[cluster[:, None] != cluster].mean()) < 0.03


def test_signals_of_the_paper_lie_on_few_atoms():
    signals, dictionary, lam = problems.draw(problems.Cell(40, 3, 6, 0.2))
    assert (lam, signals.dtype, dictionary.dtype) == (0.2, np.float32, np.float32)
    cosines = np.linalg.norm(signals, axis=1)
    assert signals.shape == (6, 16) and np.all(cosines > 0)
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=0), 1, rtol=1e-5)


def test_fractions_become_weights():
    signals, dictionary, lam = problems.draw(problems.Cell(40, 3, 6, lam_fraction=0.5))
    strongest = (signals @ dictionary).max(axis=1)
    np.testing.assert_allclose(lam, 0.5 * np.median(strongest), rtol=1e-6)

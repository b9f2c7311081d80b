"""The law of a world drawn the long way: every feature of every sample, and the trees by loops."""

import numpy as np


def draw(firing, rng, count):
    """Codes, (count, N), of the constants, by `F ε + √δ η > τ` and one node after the other."""
    from scipy.stats import norm

    number = len(firing.rates)
    shared, own = (
        rng.standard_normal((count, firing.factor.shape[1])),
        rng.standard_normal((count, number)),
    )
    fires = shared @ firing.factor.T + np.sqrt(firing.rest) * own > norm.isf(firing.rates)
    codes = np.where(
        fires, np.maximum(0, firing.mean + firing.std * rng.standard_normal((count, number))), 0
    )
    for level in range(firing.level.max() + 1):
        for node in np.flatnonzero(firing.level == level):
            above = firing.parent[node]
            if above >= 0:
                gate = (
                    codes[:, above] / firing.mean[above]
                    if firing.scaled[above]
                    else codes[:, above] > 0
                )
                codes[:, node] *= gate
            children = np.flatnonzero(firing.parent == node)
            if firing.exclusive[node]:
                for row in np.flatnonzero(codes[:, node]):
                    on = children[codes[row, children] > 0]
                    if len(on) > 1:
                        codes[row, np.setdiff1d(on, rng.choice(on))] = 0
    return codes

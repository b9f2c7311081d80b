"""One-to-one assignment of largest total score, which large and contested problems prepare for by an auction."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

# Assignments of fewer rows take a second without prices, and those with this share of spare columns have little to contest.
_CONTESTED_ROWS = 2_000
_SPARE = 0.1
# Candidates that a row keeps, the increments that prices rise by, as shares of the largest score, the share of rows that may
# be without a column before the next, and the work that an increment is worth, in bids a row: columns that many rows like
# equally well are bid for without end.
_CANDIDATES = 32
_INCREMENTS = (2e-2, 2e-3, 2e-4, 2e-5)
_LEFT_OVER = 0.01
_WORK = 30


def assign(scores: Float[np.ndarray, "rows columns"]) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """One-to-one assignment of largest total score, `max_π Σ_i scores[i, π(i)]`.

    Solved by shortest augmenting paths, in a large and contested problem on `scores - prices`: a price on a column takes the
    same from every assignment that uses all columns, so that the optimum stays, and good prices keep the paths short.

    Args:
      scores: (rows, columns), not negative, of any shape; the shorter side is assigned in full.

    Returns:
      The row and the column of each of the min(rows, columns) pairs, rows ascending.

    References:
      Crouse (2016), "On implementing 2D rectangular assignment algorithms", IEEE TAES 52(4).
      Bertsekas (1988), "The auction algorithm: a distributed relaxation method for the assignment problem", Annals of OR 14.
    """
    num_rows, num_columns = scores.shape
    if num_rows > num_columns:
        columns, rows = assign(np.ascontiguousarray(scores.T))
        order = np.argsort(rows)
        return rows[order], columns[order]
    best = scores.argmax(axis=1)
    if np.bincount(best).max() == 1:
        return np.arange(num_rows), best
    if num_rows < _CONTESTED_ROWS or num_columns > (1 + _SPARE) * num_rows:
        return linear_sum_assignment(scores, maximize=True)
    live = scores.any(axis=0)
    if live.any() and not live.all():
        # Dead columns are all alike, which prices cannot settle: they take the rows that the others leave.
        rows, columns = assign(scores[:, live])
        left = np.setdiff1d(np.arange(num_rows), rows)
        rows, columns = np.append(rows, left), np.append(np.flatnonzero(live)[columns], np.flatnonzero(~live)[: len(left)])
        order = np.argsort(rows)
        return rows[order], columns[order]
    prices = _prices(scores)
    if prices is None:
        return linear_sum_assignment(scores, maximize=True)
    # Rows of zeros take the columns that the others leave.
    costs = np.zeros((num_columns, num_columns))
    costs[:num_rows] = scores
    np.subtract(prices, costs, out=costs)
    costs -= costs.min(axis=1, keepdims=True)
    rows, columns = linear_sum_assignment(costs)
    return rows[:num_rows], columns[:num_rows]


def _prices(scores: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " columns"] | None:
    """Prices of the columns from a hasty auction, at which most rows can have the column that they like best; None if it drags.

    Every row without a column bids for its best, `argmax_j scores[i, j] - price_j`, and raises its price until it is no better
    than the row's second, and by an increment more. Prices only rise, so the candidates that a row once kept still have its
    best, as long as the second of them is worth as much as the best that was not kept.
    """
    num_rows, num_columns = scores.shape
    kept = min(_CANDIDATES, num_columns - 1)
    prices = np.zeros(num_columns)
    candidates, values = np.empty((num_rows, kept), np.int64), np.empty((num_rows, kept))
    bounds = np.empty(num_rows)

    def shortlist(rows):
        for start in range(0, len(rows), 512):
            chunk = rows[start : start + 512]
            worth = scores[chunk] - prices.astype(scores.dtype)
            order = np.argpartition(worth, num_columns - kept - 1, axis=1)[:, num_columns - kept - 1 :]
            bounds[chunk] = np.take_along_axis(worth, order[:, :1], axis=1)[:, 0]
            candidates[chunk] = order[:, 1:]
            values[chunk] = np.take_along_axis(scores[chunk], order[:, 1:], axis=1)

    def two_best(rows):
        worth = values[rows] - prices[candidates[rows]]
        every, best = np.arange(len(rows)), worth.argmax(axis=1)
        first = worth[every, best]
        worth[every, best] = -np.inf
        return candidates[rows, best], first, worth.max(axis=1)

    shortlist(np.arange(num_rows))
    largest = float(scores.max())
    for increment in _INCREMENTS:
        owners, free, work = np.full(num_columns, -1), np.arange(num_rows), 0
        while len(free) > _LEFT_OVER * num_rows:
            if work > _WORK * num_rows:
                return None
            wanted, first, second = two_best(free)
            stale = np.flatnonzero(second < bounds[free])
            if len(stale):
                shortlist(free[stale])
                wanted[stale], first[stale], second[stale] = two_best(free[stale])
            raises = first - second + increment * largest
            # Of all bids for a column the highest, written last, wins.
            order = np.argsort(raises, kind="stable")
            winners = np.full(num_columns, -1)
            winners[wanted[order]] = order
            sold = np.flatnonzero(winners >= 0)
            winners = winners[sold]
            outbid = owners[sold]
            owners[sold] = free[winners]
            prices[sold] += raises[winners]
            # A new list costs about ten bids, and so does a round, however few bid in it.
            work += len(free) + 10 * len(stale) + 10
            free = np.concatenate([np.delete(free, winners), outbid[outbid >= 0]])
    return prices


__all__ = ["assign"]

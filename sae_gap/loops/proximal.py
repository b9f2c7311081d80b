"""FISTA for a fixed number of iterations, on the Gram matrix of all atoms."""

import numpy as np

from sae_gap.loops.routines import copy, entry, subtract


@entry
def iterate_block(pull, gram, rate, threshold, momenta, codes):
    """Iterations of `fista.fixed` for a block of samples, with non-negative codes and one weight.

    A gradient sums the rows of the Gram matrix where the point is not zero. It searches for these
    again only after a zero code has become positive.

    Args:
      pull: `(n, num_latents)` correlations of the signals.
      gram: `(num_latents, num_latents)` inner products of the atoms.
      rate: the step size.
      threshold: the weight times the step size.
      momenta: `(iterations,)`, `(t_i - 1) / t_{i+1}`.
      codes: `(n, num_latents)` the start, and the result.
    """
    num_samples, num_latents = codes.shape
    point = np.empty_like(codes[0])
    total = np.empty_like(codes[0])
    places = np.empty(num_latents, np.int64)
    zero = rate - rate
    for i in range(num_samples):
        code = codes[i]
        copy(point, code)
        entered = zero + 1
        used = 0
        for momentum in momenta:
            if entered != 0:
                used = 0
                for j in range(num_latents):
                    if point[j] != 0 or code[j] != 0:
                        places[used] = j
                        used += 1
            copy(total, pull[i])
            # Four atoms at once, since each pass reads and writes the sum.
            whole = used - used % 4
            for p in range(0, whole, 4):
                a = places[p]
                b = places[p + 1]
                c = places[p + 2]
                d = places[p + 3]
                row_a = gram[a]
                row_b = gram[b]
                row_c = gram[c]
                row_d = gram[d]
                at_a = point[a]
                at_b = point[b]
                at_c = point[c]
                at_d = point[d]
                for j in range(num_latents):
                    total[j] -= (
                        at_a * row_a[j]
                        + at_b * row_b[j]
                        + at_c * row_c[j]
                        + at_d * row_d[j]
                    )
            for p in range(whole, used):
                subtract(total, point[places[p]], gram[places[p]])
            entered = zero
            for j in range(num_latents):
                new = point[j] + rate * total[j] - threshold
                # Keep a NaN.
                new = zero if new < 0 else new
                entered += new if code[j] == 0 else zero
                point[j] = new + momentum * (new - code[j])
                code[j] = new

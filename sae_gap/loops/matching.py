"""Orthogonal matching pursuit, on the Gram matrix of all atoms."""

from typing import no_type_check

import numpy as np

from sae_gap.loops.routines import border, copy, dot, entry, first_largest, subtract

# An atom is dependent if less than this share of its energy is outside the span of the basis; the
# inverse is never refined.
IN_SPAN = 1e-7
# Correlations to update at once, in cache.
TILE = 2048


@entry
@no_type_check
def match_block(signals, atoms, gram, pull, nonneg, chosen, codes):
    """`greedy.orthogonal_matching_pursuit` for a block of samples.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_latents, input_dim)`, of unit norm or zero.
      gram: `(num_latents, num_latents)` inner products of the atoms.
      pull: `(n, num_latents)` correlations of the signals.
      nonneg: whether each step takes the atom with the largest correlation instead of the largest
        |correlation|.
      chosen: `(n, num_atoms)` the result: the atoms in the order of their choice.
      codes: `(n, num_atoms)` the result: their codes.
    """
    (num_samples, num_atoms), num_latents = chosen.shape, len(atoms)
    score, places, code = (
        np.empty(num_latents, pull.dtype),
        np.empty(num_atoms, np.int64),
        np.empty(num_atoms),
    )
    inverse, cross, slope = (
        np.empty((num_atoms, num_atoms)),
        np.empty(num_atoms),
        np.empty(num_atoms),
    )
    # Products of the chosen atoms are computed in double precision.
    atom = np.empty(atoms.shape[1])
    for i in range(num_samples):
        size = np.int64(0)
        for step in range(num_atoms):
            for begin in range(0, num_latents, TILE):
                end = min(begin + TILE, num_latents)
                part = score[begin:end]
                copy(part, pull[i, begin:end])
                # Two atoms at once, since each pass reads and writes the sum.
                for b in range(1, size, 2):
                    one, two = places[b - 1], places[b]
                    one_row, two_row = (
                        gram[chosen[i, one], begin:end],
                        gram[chosen[i, two], begin:end],
                    )
                    for j in range(part.size):
                        part[j] -= codes[i, one] * one_row[j] + codes[i, two] * two_row[j]
                if size % 2:
                    subtract(
                        part,
                        codes[i, places[size - 1]],
                        gram[chosen[i, places[size - 1]], begin:end],
                    )
                if not nonneg:
                    for j in range(part.size):
                        part[j] = abs(part[j])
            for place in range(step):
                score[chosen[i, place]] = -np.inf
            best = first_largest(score)
            chosen[i, step], codes[i, step] = best, 0
            copy(atom, atoms[best])
            for b in range(size):
                cross[b] = dot(atom, atoms[chosen[i, places[b]]])
            for b in range(size):
                slope[b] = dot(inverse[b, :size], cross[:size])
            energy = dot(atom, atom)
            left = energy - dot(cross[:size], slope[:size])
            # An atom in the span of the others adds nothing to them.
            if not left > IN_SPAN * energy:
                continue
            # The atom's correlation with the residual, over its energy outside the basis.
            value = (dot(atom, signals[i]) - dot(cross[:size], code[:size])) / left
            for b in range(size):
                code[b] -= value * slope[b]
            border(inverse, slope, left, size)
            places[size], code[size] = step, value
            size += 1
            for b in range(size):
                codes[i, places[b]] = code[b]

"""Upper bounds on what exchanges of atoms gain."""

from typing import no_type_check

from sae_gap.core.pursuit import DEPENDENT
from sae_gap.loops.routines import entry

# Atoms to process at once, in cache.
TILE = 1024


@entry
@no_type_check
def promise_all(shares, inner, spread, values, left, room, found):
    """Fills in how much each atom takes from the squared error in each place, as `exchange.py`
    defines it; an atom in the span of the others takes nothing.

    Args:
      shares: h of all atoms, (s, n).
      inner: inner products of the support with all atoms, (s, n).
      spread: the diagonal of G⁻¹, (s,).
      values: z, (s,).
      left: c of all atoms, (n,).
      room: whether the last place is free.
      found: the result, (s + 1, n).
    """
    (size, width), kind = inner.shape, left.dtype.type
    one, zero, least = kind(1), kind(0), kind(DEPENDENT)
    for begin in range(0, width, TILE):
        end = min(begin + TILE, width)
        outside, pull = found[size, begin:end], left[begin:end]
        outside[:] = one
        for j in range(size):
            for a in range(end - begin):
                outside[a] -= shares[j, begin + a] * inner[j, begin + a]
        for j in range(size):
            own, share, lost = found[j, begin:end], shares[j, begin:end], values[j] / spread[j]
            for a in range(end - begin):
                energy = outside[a] + share[a] * share[a] / spread[j]
                gain = max(pull[a] + lost * share[a], zero)
                taken = gain * gain / max(energy, least)
                own[a] = (taken if energy > least else zero) - lost * values[j]
        for a in range(end - begin):
            gain = max(pull[a], zero)
            taken = gain * gain / max(outside[a], least)
            outside[a] = taken if room and outside[a] > least else zero

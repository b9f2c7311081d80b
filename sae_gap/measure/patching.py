"""What reconstructions of a network's activations cost it in nats."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sae_gap.analysis import BEST, best_at, placed
from sae_gap.core import Whitening
from sae_gap.encoders import DENSEST
from sae_gap.learners import Learner
from sae_gap.measure import (
    Stages,
    check_codes,
    learners_of,
    methods_of,
    of_encoders,
    stem,
)
from sae_gap.metrics import nats
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store
from sae_gap.study import Method

# The name of the study.
NATS = "downstream"
# Largest L0 of a full pursuit: its time grows with the square, and would exceed all else.
MOST_PURSUED = 64


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """What is put back.

    Attributes:
      learners: dictionaries, with options of `methods_of`.
      l0: common mean L0s.
      codes: names of codes at common L0s.
      proposed: names of codes at the own L0 of an encoder alone.
    """

    learners: Mapping[str, tuple[Learner, dict[str, Any]]]
    l0: Sequence[float]
    codes: Sequence[str]
    proposed: Sequence[str]

    def methods(
        self, names: Sequence[str], l0: float, dictionaries: Iterable[str]
    ) -> Iterator[Method]:
        """Codes on some dictionaries at an L0."""
        if l0 > MOST_PURSUED:
            names = [name for name in names if stem(name) != "omp"]
        for dictionary in dictionaries:
            learner, options = self.learners[dictionary]
            yield from methods_of(learner, names, l0, **options)

    def at_common_l0s(self, middle: float) -> Iterator[Method]:
        """All dictionaries at each common L0, and what has no encoder at the middle one."""
        for l0 in self.l0:
            yield from self.methods(self.codes, l0, self.learners)
        bare = [
            name
            for name, (learner, _) in self.learners.items()
            if learner.encode is None
        ]
        yield from self.methods(self.proposed, middle, bare)

    def at_own_l0s(self, rows: Sequence[Row], densest: float) -> Iterator[Method]:
        """Each encoder's dictionary, and the best one nearby, at the encoder's own L0."""
        # Those that split a loss.
        codes = [
            name for name in self.codes if name.rpartition(":")[2] in (*BEST, "lasso")
        ]
        for row in rows:
            # Do not split denser codes, which are not sparse.
            if row["codes"] != "own" or row["dead"] or row["level"] > densest:
                continue
            name = row["dictionary"]
            level = row["level"]
            yield from self.methods(self.proposed, level, [name])
            if level not in self.l0:
                best = best_at(rows, row["near"]) or row
                pair = name, best["dictionary"]
                yield from self.methods(codes, level, pair)


def put_back(
    source: Any,
    saes: Sequence[SAE],
    store: Store,
    l0: Sequence[float],
    codes: Sequence[str],
    controls: Sequence[str] = (),
) -> list[Row]:
    """Measures in nats what reconstructions cost a network: at the L0 of each encoder, and of all
    dictionaries at common ones.

    Own codes set the L0 at which each encoder is split, and codes at the common L0s find the best
    dictionary.

    Args:
      source: rows of a network.
      saes: SAEs and dictionaries.
      store: where rows go.
      l0: mean L0s at which dictionaries are compared.
      codes: names of codes.
      controls: names of control dictionaries, which learn for the middle of these L0s.

    Returns:
      A row for each dictionary, codes and level; those of encoders also have `near`, the common L0
      closest to theirs.
    """
    middle = l0[len(l0) // 2]
    learners = learners_of(saes, controls, middle, source.input_dim)
    check_codes(codes, learners)
    codes = in_nats(codes, saes)
    own = [name for name in codes if stem(name) == "own"]
    proposed = [name for name in codes if of_encoders(name)]
    others = [name for name in codes if name not in (*own, *proposed)]
    candidates = _Candidates(learners, l0, others, proposed)
    metrics = [nats.METRIC]
    stages = Stages(NATS, store)
    stages.run(source, candidates.methods(own, middle, learners), metrics)
    # The level that the own L0 of each encoder stands for.
    places = {
        row["dictionary"]: placed(row["l0"], l0)
        for row in stages.rows
        if row["codes"] == "own"
    }
    for row in stages.rows:
        row.update(places.get(row["dictionary"], {}))
    stages.run(source, candidates.at_common_l0s(middle), metrics)
    densest = DENSEST * source.input_dim
    stages.run(source, candidates.at_own_l0s([*stages.rows], densest), metrics)
    return stages.rows


def in_nats(codes: Sequence[str], saes: Sequence[SAE]) -> list[str]:
    """The codes, but for those by nats if an SAE has units in which errors cost otherwise."""
    units = [sae.normalisation for sae in saes]
    other = any(isinstance(unit, Whitening) or unit.per_sample for unit in units)
    return [name for name in codes if not (other and stem(name) == "weighted")]

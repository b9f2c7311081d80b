"""In how few dimensions can each method still recover the concepts?

Every method but the unlearned baselines at 50, 100 and 200 latents, 3 to 10 of them active, in
`input_dim = ceil(c k ln(num_latents / k))` dimensions with c from .5 to 6, and c = 2 in the
paper's other studies: the MCC and the matched cosine along c.

  python -m sae_gap phase_transition
  python -m sae_gap phase_transition --preset=paper --seeds=0
"""

import itertools
import math
from typing import Any

from benchmarks.harness import Bench, Preset, drawings, frozen, methods, option, presets
from sae_gap.analysis import Lines
from sae_gap.data import Setting
from sae_gap.storage import Row
from sae_gap.study import Method

RATIOS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
_FEW = {"num_samples": (2_000,)}


def _bound(num_latents: int, k: int) -> float:
    """The dimensions that compressed sensing asks for at c = 1."""
    return k * math.log(num_latents / k)


@frozen
class Ratios(Preset):
    """A preset with the dimensions as multiples of what compressed sensing asks for."""

    without = ("input_dim", "data", "stream", "noise_db", "world", "law", "world_file")
    ratios: tuple[float, ...] = option(
        RATIOS, "Values of c, for c k ln(num_latents / k) dimensions."
    )

    def sources(self) -> list[Setting]:
        """A setting for each different dimension that a ratio gives and that leaves the concepts in
        superposition.
        """
        found = []
        axes = "num_latents sparsity num_samples seeds ratios width"
        for size, k, samples, seed, ratio, width in itertools.product(
            *(getattr(self, name) for name in axes.split())
        ):
            input_dim = math.ceil(ratio * _bound(size, k))
            if k < input_dim <= size:
                # Padded, a handful of shapes serve all ratios: else compiling would take longer
                # than solving.
                shape = max(32, 2 ** math.ceil(math.log2(input_dim)))
                found.append(
                    Setting(
                        size,
                        k,
                        samples,
                        seed,
                        input_dim,
                        padded_dim=min(size, shape),
                        width=width,
                    )
                )
        return [*dict.fromkeys(found)]


def _placed(rows: Lines) -> list[Row]:
    """Rows with the ratio of their dimension, to halves."""
    found = []
    for row in rows:
        bound = _bound(row["num_latents"], row["sparsity"])
        found.append(row | {"ratio": round(2 * row["input_dim"] / bound) / 2})
    return found


def _methods(source: Any, p: Any) -> list[Method]:
    # Signals and principal components as codes are as wide as the signals, and would be wider for
    # the padding.
    return [
        method
        for method in methods.everything(source, p)
        if method.family != "baseline"
    ]


BENCH = Bench(
    __name__,
    "Phase transition",
    _methods,
    presets(
        Ratios,
        smoke={"ratios": (1.0, 2.0, 3.0)},
        quick=_FEW,
        paper=_FEW | {"num_latents": (50, 100, 200), "sparsity": (3, 5, 10)},
    ),
    drawings.along("ratio", ("mcc_ood", "cosine"), _placed, ("sparsity",)),
    varies=("input_dim",),
)

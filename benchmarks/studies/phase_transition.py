"""In how few dimensions can each method still recover the concepts?

Every method but the unlearned baselines at 50, 100 and 200 latents, 3 to 10 of them active, in
`input_dim = ceil(c k ln(num_latents / k))` dimensions with c from .5 to 6: heat maps of the MCC,
with c = 2, the dimension of the paper's other studies, drawn in.

  python -m sae_gap phase_transition
  python -m sae_gap phase_transition --preset=paper --seeds=0
"""

import dataclasses
import itertools
import math

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import SMOKE, Preset
from benchmarks.options import option
from sae_gap.core import Setting

RATIOS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
_SHAPES = [2**power for power in range(5, 20)]


@dataclasses.dataclass(frozen=True)
class Ratios(Preset):
    """A preset with the dimensions as multiples of what compressed sensing asks for."""

    ratios: tuple[float, ...] = option(
        RATIOS, "Values of c, for c k ln(num_latents / k) dimensions."
    )


def _sources(p):
    """A setting for each different dimension that a ratio gives and that leaves the concepts in
    superposition.
    """
    found: dict[Setting, None] = {}
    axes = p.num_latents, p.sparsity, p.ratios, p.num_samples, p.width, p.seeds
    for num_latents, sparsity, ratio, samples, width, seed in itertools.product(*axes):
        input_dim = math.ceil(ratio * sparsity * math.log(num_latents / sparsity))
        if sparsity < input_dim <= num_latents:
            # Padded, a handful of shapes serve all ratios: else compiling would take longer than
            # solving.
            padded = min(num_latents, next(size for size in _SHAPES if size >= input_dim))
            setting = Setting(
                num_latents, sparsity, samples, seed, input_dim, padded_dim=padded, width=width
            )
            found[setting] = None
    return list(found)


def _methods(source, p):
    # Signals and principal components as codes are as wide as the signals, and would be wider for
    # the padding.
    return [method for method in methods.everything(source, p) if method.family != "baseline"]


BENCH = Bench(
    "phase_transition",
    "Phase transition",
    __doc__,
    _methods,
    {
        "smoke": Ratios(**vars(SMOKE), ratios=(1.0, 2.0, 3.0)),
        "quick": Ratios(num_samples=(2_000,)),
        "paper": Ratios(num_latents=(50, 100, 200), sparsity=(3, 5, 10), num_samples=(2_000,)),
    },
    varies=("input_dim",),
    figures=drawings.phase_maps(),
    sources=_sources,
    slow=("softplus_adam",),
    without=("input_dim", "data", "stream", "noise_db", "world", "law", "world_file"),
)

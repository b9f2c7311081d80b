"""How does a dictionary come about?

The dictionary of each SAE along its epochs, and of DL-FISTA and `online_dl` along their rounds,
from one fit each: matched cosine, squared error, L0 and gap.

  python -m sae_gap learning_dynamics
  python -m sae_gap learning_dynamics --preset=paper --num_latents=50,100,500,1000
"""

from typing import Any

from benchmarks.harness import drawings, learners, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import PRESETS
from sae_gap.metrics import dictionary, gap, recovery
from sae_gap.study import Method

# From the end of the first on, as the paper counts them from 0.
EPOCHS = (1, 11, 21, 51, 101, 201, 301, 401)
ROUNDS = (*EPOCHS, 501, 601, 701, 801, 901)


def _methods(source: Any, p: Any) -> list[Method]:
    steps = {
        learners.dl_fista(p): ROUNDS,
        learners.online(p): learners.online(p).snapshots[1:],
    }
    listed = methods.saes("sae")(source, p) + [
        methods.coded(one.name, one, p) for one in steps
    ]
    return [methods.along(one, steps.get(one.learner, EPOCHS)) for one in listed]


BENCH = Bench(
    __name__,
    "Learning dynamics",
    _methods,
    PRESETS,
    drawings.along("step", ("cosine", "mse_id", "l0_above_id")),
    {
        "Along the fit": "cosine close norm_ratio mse_id l0_above_id relative_gap_id mcc_ood "
        "fit_seconds"
    },
    varies=("step",),
    options={"metrics": (recovery.METRIC, dictionary.METRIC, gap.METRIC)},
)

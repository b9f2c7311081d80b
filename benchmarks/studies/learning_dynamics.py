"""How does a dictionary come about?

The dictionary of each SAE along its epochs, and of DL-FISTA and `online_dl` along their rounds,
from one fit each: matched cosine, squared error, L0 and gap.

  python -m sae_gap learning_dynamics
  python -m sae_gap learning_dynamics --preset=paper --num_latents=50,100,500,1000
"""

from benchmarks.harness import drawings, learners, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import PRESETS
from sae_gap.metrics import dictionary, gap, recovery

# From the end of the first on, as the paper counts them from 0.
EPOCHS = (1, 11, 21, 51, 101, 201, 301, 401)
ROUNDS = (1, 11, 21, 51, 101, 201, 301, 401, 501, 601, 701, 801, 901)


def _methods(source, p):
    def along(steps, last):
        return (*(step for step in steps if step < last), last)

    online, dl_fista = learners.online(p), learners.dl_fista(p)
    steps = {
        dl_fista: along(ROUNDS, p.rounds),
        online: along(online.snapshots[1:], online.num_steps),
    }
    learned = [methods.coded(one.name, one, p, at=at) for one, at in steps.items()]
    return [*methods.own(source, p, at=along(EPOCHS, p.epochs)), *learned]


BENCH = Bench(
    "learning_dynamics",
    "Learning dynamics",
    __doc__,
    _methods,
    PRESETS,
    varies=("step",),
    figures=drawings.along("step", ("cosine", "mse_id", "l0_above_id")),
    tables={
        "Along the fit": "cosine close norm_ratio mse_id l0_above_id relative_gap_id mcc_ood "
        "fit_seconds"
    },
    options={"metrics": (recovery.METRIC, dictionary.METRIC, gap.METRIC)},
)

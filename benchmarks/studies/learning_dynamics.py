"""How does a dictionary come about?

The dictionary of each SAE along its epochs, and of DL-FISTA and `online_dl` along their rounds, from one fit each: matched
cosine, squared error, L0 and gap.

  python -m sae_gap learning_dynamics
  python -m sae_gap learning_dynamics --preset=paper --num_latents=50,100,500,1000
"""

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import SMOKE, WIDTHS, Bench, Preset
from sae_gap.metrics import dictionary, gap, recovery

# From the end of the first on, as the paper counts them from 0.
EPOCHS = (1, 11, 21, 51, 101, 201, 301, 401)
ROUNDS = (1, 11, 21, 51, 101, 201, 301, 401, 501, 601, 701, 801, 901)


def _methods(source, p):
    def along(steps, last):
        return (*(step for step in steps if step < last), last)

    saes = [methods.own(name, source, p, at=along(EPOCHS, p.epochs)) for name in methods.SAES]
    online = methods.online(p)
    learners = {
        "dl_fista": (methods.dl_fista(p), along(ROUNDS, p.rounds)),
        "online_dl": (online, along(online.landmarks[1:], online.num_steps)),
    }
    return [*saes, *(methods.coded(name, "dictionary_learning", one, p, at=at) for name, (one, at) in learners.items())]


BENCH = Bench(
    "learning_dynamics",
    __doc__,
    _methods,
    {
        "smoke": SMOKE,
        "quick": Preset(),
        "paper": Preset(num_latents=WIDTHS),
    },
    varies=("step",),
    figures=drawings.along("step", ("cosine", "mse_id", "l0_id"), logx=True),
    tables={
        "Along the fit": {"cosine": "cosine", "close": "cos > .9", "norm_ratio": "norm ratio", "mse_id": "MSE", "l0_id": "L0"}
        | {"relative_gap_id": "relative gap", "mcc_ood": "MCC OOD", "fit_seconds": "fit s"}
    },
    metrics=(recovery.METRIC, dictionary.METRIC, gap.METRIC),
)

if __name__ == "__main__":
    BENCH.run()

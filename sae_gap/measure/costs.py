"""What ways to code on a dictionary cost, and what they save in nats."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sae_gap.data import Source
from sae_gap.encoders import Lasso
from sae_gap.learners import Learner
from sae_gap.measure import Stages, methods_of, recipe
from sae_gap.metrics import cost_at, nats, processor_time
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store
from sae_gap.study import Method

# The name of the study.
COSTS = "encoder_cost"
# Codes whose cost is measured, by their kinds: screens with their breadths, iterations of FISTA.
_SCREENS = ("1x1", "1x2", "1x4", "1x16", "2x1", "2x2", "2x4", "3x2")
KINDS = {
    "own": ("own", "own_refit"),
    "screened_pursuit": [f"screened_pursuit_{sizes}" for sizes in _SCREENS],
    "batch_pursuit": [f"batch_pursuit_{sizes}" for sizes in _SCREENS],
    "omp": ("omp", "omp_pruned"),
    "fista": [f"fista_{count}" for count in (1, 2, 5, 10, 20, 50)],
    "lasso": ("lasso", "lasso_refit", "lasso_pruned"),
}


def priced(
    source: Source,
    sae: SAE,
    store: Store,
    k: int,
    codes: Sequence[str],
) -> list[Row]:
    """Measures what ways to code on a dictionary cost and save in nats.

    Args:
      source: rows of a network.
      sae: the SAE or dictionary.
      store: where rows go.
      k: mean L0 of all codes but those of encoders.
      codes: some of `KINDS`, and codes by their names.

    Returns:
      A row for each way, with the λ at which the lasso has an L0 of k.
    """
    learner = sae.given
    weights = []
    for l0 in (k, min(2 * k, sae.num_latents)):
        lasso = Lasso(l0=l0, nonneg=not sae.signed)
        weights.append(Method("weight", "", learner, lasso, {"level": l0}))
    found = Stages(COSTS, store).run(source, weights, metrics=())
    lams = {row["level"]: row["lam"] for row in found}
    rows = Stages(COSTS, store).run(
        source,
        ways(learner, k, lams, codes),
        [nats.METRIC, cost_at(lams[k], k), processor_time()],
        calibrate_on="train",
    )
    return [row | {"lam": lams[k]} for row in rows]


def ways(
    learner: Learner,
    k: int,
    lams: Mapping[float, float],
    codes: Iterable[str],
) -> Iterator[Method]:
    """Ways to code on a dictionary with k atoms a sample, of some kinds and by their names, with
    the lasso's λ at the L0s that need one.
    """

    def lasso(l0: float) -> Lasso:
        return Lasso(lams[l0], nonneg=not learner.signed)

    for code in codes:
        for name in KINDS.get(code, [code]):
            kind, sizes = recipe(name)
            row = dict.fromkeys(("screens", "breadth", "iterations")) | sizes
            yield from methods_of(
                learner,
                [name],
                k,
                family=kind if code in KINDS else name.rpartition(":")[2],
                lasso=lasso,
                row=row,
            )

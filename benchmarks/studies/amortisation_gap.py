"""The headline benchmark: is it the encoder or the dictionary?

Trains every method on the paper's setting, or on a file of activations, and measures how much of
each SAE's distance to the oracle its dictionary holds and how much its encoder, with a certificate
for every optimum it compares with. Writes rows, summary.csv, figures and a page under
<results_dir>/amortisation_gap/, prints the tables and ends with the answer for TopK in a sentence.

  python -m sae_gap amortisation_gap --preset=quick
  python -m sae_gap amortisation_gap --data=activations.npz --width=512 --sparsity=16
"""

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import PRESETS
from sae_gap.storage.results import CELL


def _methods(source, p):
    saes = methods.parts(source, p)
    return [*methods.probe(), *saes, *methods.learned(p), *methods.oracle(p)]


_ANSWER = (
    "Out of distribution the TopK SAE's own codes have an MCC of {sae_topk}, those of the lasso on "
    "its dictionary {frozen_topk}, on the dictionary of online_dl {online_dl} and on the true one "
    "{fista_oracle} (number of seeds: {seeds})."
)


def _answer(summary):
    scores = {line["method"]: line.get("mcc_ood_mean") for line in summary}
    named = ("sae_topk", "frozen_topk", "online_dl", "fista_oracle")
    # Several sizes have no one answer, and data without codes have no MCC.
    if len(scores) < len(summary) or any(scores.get(name) is None for name in named):
        return ""
    shown = {name: f"{scores[name]:.3f}" for name in named}
    return _ANSWER.format(seeds=summary[0]["seeds"], **shown)


BENCH = Bench(
    "amortisation_gap",
    "Amortisation gap",
    __doc__,
    _methods,
    PRESETS,
    figures=drawings.stairs()
    | drawings.plain("matched_cosines", CELL)
    | drawings.plain("recovery", CELL),
    answer=_answer,
    parts=True,
)

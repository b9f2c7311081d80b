"""The headline benchmark: is it the encoder or the dictionary?

Trains every method on the paper's setting, or on a file of activations, and measures how much of
each SAE's distance to the oracle its dictionary holds and how much its encoder, with a certificate
for every optimum it compares with. Writes rows, summary.csv, figures and a page under
<results_dir>/amortisation_gap/, prints the tables and ends with the answer, a line an SAE.

  python -m sae_gap amortisation_gap --preset=quick
  python -m sae_gap amortisation_gap --data=activations.npz --width=512 --sparsity=16
"""

from benchmarks.harness import PRESETS, Bench, drawings, methods

BENCH = Bench(
    __name__,
    "Amortisation gap",
    methods.every(methods.probe, methods.parts, methods.learned, methods.oracle),
    PRESETS,
    figures={"decomposition": drawings.parts()} | drawings.plain("matched_cosines"),
    parts=True,
)

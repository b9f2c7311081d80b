"""How much of activations do k atoms of a dictionary explain, and how much does the choice lose?

For a dictionary that is given, such as the vocabulary's directions, codes activations by at most k
non-negative multiples of its atoms, chosen by

  matching, gradient, orthogonal   the greedy pursuits; the last one refits after each step
  screened          orthogonal pursuit among the atoms that two products propose
  lasso             the certified lasso's supports
  exchange          from orthogonal pursuit on, swaps and additions of atoms while one gains
  exchange_lasso    the same from the lasso's supports
  best              the better of the two, row by row

A row has the captured variance, `1 - Σ‖t - D z‖² / Σ‖t‖²` of the activations or, with --centred,
of the activations less their mean; its interval over documents; what it loses beside the best; how
many atoms are in use; which share of the best code's support it has; and a bound for codes of k
atoms that are no larger. Orthogonal pursuit is held against dictionaries of the same mean and
covariance and against random directions. Writes rows and summary.csv under
<results_dir>/decompose/. A run that was stopped goes on with the same command.

  python -m sae_gap decompose --dictionary=atoms.npy --activations=results/record/NAME/block10
  python -m sae_gap decompose --dictionary=atoms.npy --activations=x.npz --k=16 --centred
"""

import dataclasses

import numpy as np

from benchmarks import cli
from benchmarks.options import Results, option
from benchmarks.real.page_tables import table
from sae_gap.data.activations import open_activations
from sae_gap.figures import tables
from sae_gap.measure import decomposition
from sae_gap.measure.coding import evenly_spaced
from sae_gap.measure.decomposition import control_atoms
from sae_gap.measure.given import dictionary
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results
from sae_gap.storage.results import Row

NAME = "decompose"
# Raised whenever a row comes to hold something else.
FORM = 1
COLUMNS = (
    "codes k captured low high median lost lost_low lost_high l0 shared top atoms common bound"
)

CONTROLLED = "control k captured low high occupancy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecomposeOptions(Results):
    """What to decompose, on what, and where results go."""

    activations: str | None = option(None, "File or folder of activations.")
    key: str | None = option(None, "Name of the array of activations in a file of several.")
    dictionary: str | None = option(
        None, "Atoms: a .npy or .safetensors file of (input_dim, num_latents)."
    )
    k: tuple[int, ...] = option((10, 16, 25), "Atoms that a code may have.", least=1)
    samples: int = option(500, "Rows to code, at most, evenly spread.", least=10)
    centred: bool = option(False, "Take the mean of the activations off first.")
    controls: int = option(32, "Control dictionaries of the same mean and covariance.", least=0)
    controlled: int = option(100, "Rows to code on controls, at most.", least=1)
    seed: int = option(0, "Of the controls.", least=0)


def measure(options: DecomposeOptions) -> list[Row]:
    """Codes the rows, or reads what is stored; writes the table as a file.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    if not options.activations or not options.dictionary:
        raise ValueError("there is nothing to decompose; give --activations and --dictionary.")
    atoms = cli.read_matrix(options.dictionary)
    activations = open_activations(options.activations, key=options.key).without_outliers()
    if len(atoms) != activations.input_dim or max(options.k) > min(atoms.shape):
        raise ValueError(
            f"--dictionary has the shape {atoms.shape}, but it must be "
            f"({activations.input_dim}, num_latents), of at least {max(options.k)} atoms and "
            "dimensions; give one of that layer, or its transpose."
        )
    folder = cli.folder(options.results_dir) / NAME
    folder.require_writable()
    places = evenly_spaced(activations.num_samples, options.samples)
    x, store = activations.take(places), results.Store(folder)
    documents = activations.documents
    members = np.arange(len(x)) if documents is None else documents[places]
    mean = x.mean(axis=0) if options.centred else np.zeros_like(x[0])
    sae = _on(atoms, mean)
    told: Row = {"study": NAME, "form": FORM, "rows": results.digest([x, members])}
    told |= {"sae": sae.identity, "k": options.k}
    about: Row = {"study": NAME, "centred": options.centred, "samples": len(x)}
    rows = store.once(
        told, lambda: (about | row for row in decomposition.decompose(sae, x, members, options.k))
    )
    few = x[evenly_spaced(len(x), options.controlled)]
    told |= {"few": len(few)}
    rows += store.once(
        told | {"codes": "ceiling"}, lambda: [about | decomposition.ceiling(sae, few)]
    )
    steps, unit = max(options.k), np.asarray(sae.model.decoder)

    def pursue(kind, seed):
        given = sae if kind == "given" else _on(control_atoms(kind, unit, seed), mean)
        gains = decomposition.gains(given, few, steps)
        return [about | {"codes": "span", "control": kind, "seed": seed, "gains": gains.tolist()}]

    runs = [("given", 0), ("isotropic", options.seed), ("shuffled", options.seed)]
    runs += [("covariance", options.seed + place) for place in range(options.controls)]
    spans = []
    for kind, seed in runs:
        settings = told | {"control": kind, "seed": seed}
        spans += store.once(settings, lambda kind=kind, seed=seed: pursue(kind, seed))
    rows += [about | row for row in _controlled(spans, options.k)]
    columns = [*COLUMNS.split(), "control", "occupancy"]
    tables.write_table(folder, "summary.csv", rows, columns)
    return rows


def _on(atoms, mean) -> SAE:
    return SAE.of_model(dictionary(atoms, mean).model, name=NAME)


def _controlled(spans, sizes) -> list[Row]:
    """For each k what lies in the span of k atoms of each kind of dictionary, with the spread of
    its draws, and the mean occupancy of the one that is given, held against each.
    """
    kinds = {
        kind: [np.array(row["gains"]) for row in drawn]
        for (kind,), drawn in results.grouped(spans, ("control",)).items()
    }
    given, found = kinds["given"][0], []
    for kind, draws in kinds.items():
        held = decomposition.occupancy(given, np.mean(draws, axis=0)).mean()
        for k in sizes:
            captured = [gains[:, :k].sum(axis=1).mean() for gains in draws]
            row = {"codes": "span", "control": kind, "k": k, "captured": float(np.mean(captured))}
            row |= {"low": float(min(captured)), "high": float(max(captured))}
            found.append(row | {"occupancy": None if kind == "given" else float(held)})
    return found


def main(options: DecomposeOptions) -> None:
    with cli.usage():
        rows = measure(options)
    chosen, spans = ([row for row in rows if ("control" in row) == held] for held in (False, True))
    print(
        table("Captured variance of at most k atoms", COLUMNS, chosen),
        table("In the span of k atoms, and of controls", CONTROLLED, spans),
        sep="\n\n",
    )


if __name__ == "__main__":
    cli.run(main)

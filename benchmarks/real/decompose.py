r"""How much of activations do k atoms of a dictionary explain, and how much does the choice lose?

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
covariance and against random directions. A recording of a language model is measured block by
block, on a file of atoms, on the unembedding or on each block's atoms of a Jacobian lens. Writes
rows, summary.csv and, of several blocks, a figure under <results_dir>/decompose/. A run that was
stopped goes on with the same command.

  python -m sae_gap decompose --recording=results/record/NAME --dictionary=unembedding
  python -m sae_gap decompose --recording=results/record/NAME --dictionary=results/lens/NAME \
    --layers=10,20 --centred_atoms
  python -m sae_gap decompose --activations=x.npz --dictionary=atoms.npy --k=16 --centred
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import LanguageModel
from benchmarks.real.page_tables import table
from sae_gap import figures
from sae_gap.data.activations import Activations, open_activations
from sae_gap.figures import tables
from sae_gap.lm.lens import open_lens
from sae_gap.lm.pretrained import load_lm
from sae_gap.lm.recording import open_recording
from sae_gap.measure import decomposition
from sae_gap.measure.coding import evenly_spaced
from sae_gap.measure.decomposition import control_atoms
from sae_gap.measure.given import dictionary
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results
from sae_gap.storage.results import Row

NAME = "decompose"
# Raised whenever a row comes to hold something else.
FORM = 2
COLUMNS = (
    "block codes k captured low high median lost lost_low lost_high l0 shared top atoms common "
    "bound"
)
CONTROLLED = "block control k captured low high occupancy"
# What is shown of several blocks, of the most atoms.
BRIEF = ("orthogonal", "best")
UNEMBEDDING = "unembedding"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecomposeOptions(LanguageModel):
    """What to decompose, on what, and where results go."""

    activations: str | None = option(None, "File or folder of activations.")
    key: str | None = option(None, "Name of the array of activations in a file of several.")
    recording: str | None = option(
        None, "A folder that record wrote, in the place of --activations."
    )
    layers: tuple[int, ...] | None = option(
        None, "Blocks of the recording, counted from 0.  [all that were recorded]", least=0
    )
    dictionary: str | None = option(
        None,
        "Atoms: a .npy or .safetensors file of (input_dim, num_latents); of a recording also "
        "unembedding, or a Jacobian lens, a folder that lens wrote or a published .pt file.",
    )
    centred_atoms: bool = option(
        False, "Take the mean atom off all atoms first, which changes no probability of a token."
    )
    k: tuple[int, ...] = option((10, 16, 25), "Atoms that a code may have.", least=1)
    samples: int = option(500, "Rows to code, at most, evenly spread.", least=10)
    centred: bool = option(False, "Take the mean of the activations off first.")
    controls: int = option(32, "Control dictionaries of the same mean and covariance.", least=0)
    controlled: int = option(100, "Rows to code on controls, at most.", least=1)
    seed: int = option(0, "Of the controls.", least=0)


def measure(options: DecomposeOptions) -> list[Row]:
    """Codes the rows of each block, or reads what is stored; writes the table and the figure.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    if not options.dictionary or bool(options.activations) == bool(options.recording):
        raise ValueError("give --dictionary, and either --activations or --recording.")
    folder = cli.folder(options.results_dir) / NAME
    folder.require_writable()
    rows = []
    for block, activations, atoms in _given(options):
        if options.centred_atoms:
            atoms = atoms - atoms.mean(axis=1, keepdims=True)
        found = _measure(options, activations.without_outliers(), atoms, results.Store(folder))
        rows += [{"block": block, "centred_atoms": options.centred_atoms} | row for row in found]
    tables.write_table(folder, "summary.csv", rows, [*COLUMNS.split(), "control", "occupancy"])
    drawn = figures.captured_by_block(rows)
    if drawn is not None:
        figures.save(drawn, folder, "blocks")
    return rows


def _given(
    options: DecomposeOptions,
) -> Iterator[tuple[int | None, Activations, Float[np.ndarray, "input_dim num_latents"]]]:
    """Each block, where there are any, its activations and its atoms."""
    path, lens = str(options.dictionary), None
    of_model = not path.endswith((".npy", ".safetensors"))
    if options.activations:
        if of_model:
            raise ValueError(
                f"--dictionary={path} is no .npy or .safetensors file; for the unembedding or a "
                "lens give --recording."
            )
        yield None, open_activations(options.activations, key=options.key), cli.read_matrix(path)
        return
    recorded = open_recording(str(options.recording))
    blocks = options.layers or recorded.layers
    if of_model:
        lm = load_lm(options.model, options.tokenizer)
        recorded.require(lm)
        if path == UNEMBEDDING:
            atoms = np.asarray(lm.model.unembedding).T
        else:
            lens = open_lens(path, lm)
            # One that is lacking is told before the others take their time.
            for block in blocks:
                lens.jacobian(block)
    else:
        atoms = cli.read_matrix(path)
    for block in blocks:
        own = lens.atoms(block)[0].T if lens else atoms
        yield block, recorded.activations(block), own


def _measure(options, activations, atoms, store) -> list[Row]:
    """Of one block."""
    if len(atoms) != activations.input_dim or max(options.k) > min(atoms.shape):
        raise ValueError(
            f"--dictionary has the shape {atoms.shape}, but it must be "
            f"({activations.input_dim}, num_latents), of at least {max(options.k)} atoms and "
            "dimensions; give one of that layer, or its transpose."
        )
    places = evenly_spaced(activations.num_samples, options.samples)
    x, documents = activations.take(places), activations.documents
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
    return [*rows, *(about | row for row in _controlled(spans, options.k))]


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
    if len({row["block"] for row in rows}) > 1:
        rows = [
            row
            for row in rows
            if row.get("k") == max(options.k) and row["codes"] in (*BRIEF, "span")
        ]
    chosen, spans = ([row for row in rows if ("control" in row) == held] for held in (False, True))
    print(
        table("Captured variance of at most k atoms", COLUMNS, chosen),
        table("In the span of k atoms, and of controls", CONTROLLED, spans),
        sep="\n\n",
    )


if __name__ == "__main__":
    cli.run(main)

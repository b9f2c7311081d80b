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
atoms whose values are no larger than the best code's largest. Orthogonal pursuit is held against
dictionaries of the same mean and covariance and against random directions. A recording of a
language model is measured block by block, on the same tokens, with the atoms of a file, those of
the unembedding or those of each block of a Jacobian lens. Outlier tokens are left out. Rows go
to <results_dir>/decompose/; a folder in it, called after the dictionary, gets summary.csv and, of
several blocks, a figure. A run that was stopped goes on with the same command.

  python -m sae_gap decompose --recording=results/record/NAME --dictionary=unembedding
  python -m sae_gap decompose --recording=results/record/NAME --dictionary=results/lens/NAME \
    --layers=10,20 --centred_atoms
  python -m sae_gap decompose --activations=x.npz --dictionary=atoms.npy --k=16 --centred
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import LanguageModel, names
from benchmarks.real.page_tables import table
from sae_gap import figures
from sae_gap.data.activations import Activations, open_activations
from sae_gap.figures import tables
from sae_gap.lm.pretrained import load_lm
from sae_gap.lm.recording import open_recording
from sae_gap.measure import decomposition
from sae_gap.measure.coding import evenly_spaced
from sae_gap.measure.decomposition import control_atoms
from sae_gap.measure.given import dictionary
from sae_gap.runtime import progress
from sae_gap.saes.load import load_sae, of_language_model
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
# Columns of the file beside those of the tables.
ABOUT, SPANS = "num_samples centred centred_atoms", ("control", "occupancy")
# What is shown of several blocks, of the most atoms.
BRIEF = ("orthogonal", "best", "span")


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
        "Atoms: a .npy, .safetensors or .pt file of (input_dim, num_latents), an SAE, or what "
        "learn or train_real saved; of a recording also unembedding, or a Jacobian lens, a folder "
        "that lens wrote or a published .pt file.",
    )
    centred_atoms: bool = option(
        False, "Take the mean atom off all atoms first, which changes no probability of a token."
    )
    k: tuple[int, ...] = option((10, 16, 25), "Atoms that a code may have.", least=1)
    samples: int = option(500, "Rows to code of each block, at most, evenly spread.", least=10)
    centred: bool = option(False, "Take the mean of the coded rows off first.")
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
    if (options.layers and options.activations) or (options.key and options.recording):
        raise ValueError("--layers goes with --recording, and --key with --activations; give one.")
    folder, rows = cli.folder(options.results_dir) / NAME, []
    folder.require_writable()
    blocks, every, atoms_after = _given(options)
    # The same tokens of each block, which are outliers after none.
    outliers = np.unique(np.concatenate([each.outliers.rows for each in every]))
    kept = np.delete(np.arange(every[0].num_samples), outliers)
    logging.info("%d of %d rows are outliers and left out.", len(outliers), every[0].num_samples)
    places = kept[evenly_spaced(len(kept), options.samples)]
    store, steps = results.Store(folder), len(every) * (5 + options.controls)
    with progress.bar(steps, NAME) as line:
        for block, activations in zip(blocks, every, strict=True):
            atoms, documents = atoms_after(block), activations.documents
            if options.centred_atoms:
                atoms = atoms - atoms.mean(axis=1, keepdims=True)
            members = np.arange(len(places)) if documents is None else documents[places]

            def once(settings, work):
                found = store.once(settings, work)
                line.update(1)
                return found

            found = _measure(options, activations.take(places), members, atoms, once)
            about = {"block": block, "centred_atoms": options.centred_atoms}
            rows += [about | row for row in found]
    shown = folder / names([options.dictionary], {"rows"})[0]
    tables.write_table(shown, "summary.csv", rows, [*ABOUT.split(), *COLUMNS.split(), *SPANS])
    drawn = figures.captured_by_block(rows)
    if drawn is not None:
        figures.save(drawn, shown, "blocks")
    return rows


def _given(
    options: DecomposeOptions,
) -> tuple[Sequence[int | None], list[Activations], Callable[[Any], np.ndarray]]:
    """The blocks, where there are any, their activations, and what gives the atoms of one."""
    path, lm = str(options.dictionary), None
    blocks: Sequence[Any] = [None]
    if options.activations:
        every = [open_activations(options.activations, key=options.key)]
    else:
        recorded = open_recording(str(options.recording))
        blocks = options.layers or recorded.layers
        every = [recorded.activations(block) for block in blocks]
        if of_language_model(path):
            lm = load_lm(options.model, options.tokenizer)
            recorded.require(lm)

    def atoms(block):
        sae = load_sae(path, model=lm, block=block)
        return np.asarray(sae.model.decoder)

    # What cannot be read is told before activations are.
    atoms(blocks[0])
    return blocks, every, atoms


def _measure(options, x, members, atoms, once) -> list[Row]:
    """Of one block."""
    if len(atoms) != x.shape[1]:
        raise ValueError(
            f"--dictionary has the shape {atoms.shape}, but it must be ({x.shape[1]}, "
            "num_latents); give one of that layer, or its transpose."
        )
    if max(options.k) > min(atoms.shape):
        raise ValueError(
            f"--k={max(options.k)} is more than the {min(atoms.shape)} atoms or dimensions that "
            "there are; lower it."
        )
    mean = x.mean(axis=0) if options.centred else np.zeros_like(x[0])
    sae = _on(atoms, mean)
    told: Row = {"study": NAME, "form": FORM, "rows": results.digest([x, members])}
    told |= {"sae": sae.identity, "k": options.k}
    about: Row = {"study": NAME, "centred": options.centred, "num_samples": len(x)}
    rows = once(
        told, lambda: (about | row for row in decomposition.decompose(sae, x, members, options.k))
    )
    few = x[evenly_spaced(len(x), options.controlled)]
    told |= {"few": len(few)}
    rows += once(told | {"codes": "ceiling"}, lambda: [about | decomposition.ceiling(sae, few)])
    steps, unit = max(options.k), np.asarray(sae.unit_dictionary)

    def pursue(kind, seed):
        given = sae if kind == "given" else _on(control_atoms(kind, unit, seed), mean)
        gains = decomposition.gains(given, few, steps)
        return [about | {"codes": "span", "control": kind, "seed": seed, "gains": gains.tolist()}]

    runs = [("given", 0), ("isotropic", options.seed), ("shuffled", options.seed)]
    runs += [("covariance", options.seed + place) for place in range(options.controls)]
    spans = []
    for kind, seed in runs:
        settings = told | {"control": kind, "seed": seed}
        spans += once(settings, lambda kind=kind, seed=seed: pursue(kind, seed))
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
        rows = [row for row in rows if row.get("k") == max(options.k) and row["codes"] in BRIEF]
    chosen, spans = ([row for row in rows if ("control" in row) == held] for held in (False, True))
    print(
        table("Captured variance of at most k atoms", COLUMNS, chosen),
        table("In the span of k atoms, and of controls", CONTROLLED, spans),
        sep="\n\n",
    )


if __name__ == "__main__":
    cli.run(main)

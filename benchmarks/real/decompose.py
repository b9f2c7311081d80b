r"""How much of activations do k atoms of a dictionary explain, and how much does the choice lose?

For a dictionary that is given, such as the vocabulary's directions, codes activations by at most k
non-negative multiples of its atoms, chosen by

  matching, gradient, orthogonal   the greedy pursuits; the last one refits after each step
  screened          orthogonal pursuit among the atoms that two products propose
  lasso             the certified lasso's supports
  exchange          from orthogonal pursuit on, swaps and additions of atoms while one gains
  exchange_lasso    the same from the lasso's supports
  best              the better of the two, row by row, and of five restarts near it; always
                    measured
  omp, mp, ...      encoders of `sae_gap.encoders` without parameters, as in `downstream`

A row has the captured variance, `1 - Σ‖t - D z‖² / Σ‖t‖²` of the activations or, with --centred,
of the activations less their mean; its interval over documents; what it loses, at least, since the
best codes are a local optimum; how many atoms are in use; which share of the best code's support it
has; and a bound for codes of k atoms whose values are no larger than the best code's largest.
Orthogonal pursuit is held against dictionaries of the same mean and covariance and against random
directions. A recording of a language model is measured block by block, on the same tokens, with the
atoms of a file, those of the unembedding or those of each block of a Jacobian lens. Outlier tokens
are left out. Rows go to <results_dir>/decompose/; a folder in it, called after the activations and
the dictionary, gets summary.csv and, of several blocks, a figure. A run that was stopped goes on
with the same command.

  python -m sae_gap decompose --recording=results/record/NAME --dictionary=unembedding
  python -m sae_gap decompose --recording=results/record/NAME --dictionary=results/lens/NAME \
    --layers=10,20 --centred_atoms
  python -m sae_gap decompose --activations=x.npz --dictionary=atoms.npy --k=16 --centred
"""

import dataclasses
from typing import Any

import numpy as np
from absl import logging

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import LanguageModel, OnActivations, names
from benchmarks.report.table import table
from sae_gap import figures
from sae_gap.core.rows import evenly_spaced
from sae_gap.data.activations import Activations
from sae_gap.data.held_out import HeldOut
from sae_gap.dictionaries.given import dictionary
from sae_gap.figures import tables
from sae_gap.learners.given import Given, Held
from sae_gap.lm.pretrained import load_lm
from sae_gap.lm.recording import open_recording
from sae_gap.measure import decomposition
from sae_gap.measure.decomposition import CODES, COLUMNS
from sae_gap.measure.methods import check_codes, finite, study_of
from sae_gap.saes.load import load_sae, of_language_model
from sae_gap.storage import results
from sae_gap.storage.results import Row
from sae_gap.study.runner import run
from sae_gap.study.study import Study

NAME = "decompose"
CONTROLLED = "block control k captured low high occupancy"
# Codes shown for several blocks, at the largest k.
BRIEF = ("orthogonal", "best", "span")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecomposeOptions(LanguageModel, OnActivations):
    """The options of `decompose`."""

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
    codes: tuple[str, ...] = option(
        CODES, "How atoms are chosen, and encoders by their names at a mean L0 of k."
    )

    def __post_init__(self):
        super().__post_init__()
        check_codes([name for name in self.codes if name not in CODES])


def measure(options: DecomposeOptions) -> list[Row]:
    """Codes the rows of each block, or reads what is stored; writes the table and the figure.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    if not options.dictionary or bool(options.activations) == bool(options.recording):
        raise ValueError("give --dictionary, and either --activations or --recording.")
    if (options.layers and options.activations) or (options.key and options.recording):
        raise ValueError("--layers goes with --recording, and --key with --activations; give one.")
    folder = options.folder(NAME)
    blocks, every, atoms_after = _given(options)
    # Take the same tokens of each block: those that are outliers after no block.
    outliers = np.unique(np.concatenate([each.outliers.rows for each in every]))
    kept = np.delete(np.arange(every[0].num_samples), outliers)
    logging.info("%d of %d rows are outliers and left out.", len(outliers), every[0].num_samples)
    places = kept[evenly_spaced(len(kept), options.samples)]
    store, lines = results.Store(folder), []
    for block, activations in zip(blocks, every, strict=True):
        chosen = dataclasses.replace(activations, numbers=activations.numbers[places])
        rows = finite(run(_study(options, chosen, atoms_after(block)), store))
        about = {"num_samples": len(places), "block": block}
        about |= {"centred": options.centred, "centred_atoms": options.centred_atoms}
        lines += [about | line for line in decomposition.lines(rows, options.k)]
    paths = options.recording or options.activations, options.dictionary
    shown = folder / "-".join(names([*map(str, paths)]))
    tables.write_table(shown, "summary.csv", lines)
    figures.save(figures.captured_by_block(lines), shown, "blocks")
    return lines


def _given(options: Any) -> Any:
    """The blocks, if any, their activations, and a function that returns the atoms of a block."""
    path, lm = options.dictionary, None
    blocks: Any = [None]
    if options.activations:
        every = [options.read_activations()]
    else:
        recorded = open_recording(options.recording)
        blocks = options.layers or recorded.layers
        every = [recorded.activations(block) for block in blocks]
        if of_language_model(path):
            lm = load_lm(options.model, options.tokenizer)
            recorded.require(lm)

    def atoms(block):
        return np.asarray(load_sae(path, model=lm, block=block).model.decoder)

    # Report unreadable atoms before reading activations.
    atoms(blocks[0])
    return blocks, every, atoms


def _study(options: Any, chosen: Activations, atoms: np.ndarray) -> Study:
    """The study: codes of rows on a dictionary, and of fewer rows on its controls."""
    (dim, width), most = atoms.shape, max(options.k)
    if dim != chosen.input_dim:
        raise ValueError(
            f"--dictionary has the shape {atoms.shape}, but it must be ({chosen.input_dim}, "
            "num_latents); give one of that layer, or its transpose."
        )
    if most > min(dim, width):
        raise ValueError(
            f"--k={most} is more than the {min(dim, width)} atoms or dimensions that there are; "
            "lower it."
        )
    rows = few = HeldOut(chosen, 1, 1, chosen.num_samples, True, held_out=chosen)
    if options.controlled < chosen.num_samples:
        few = dataclasses.replace(rows, samples=options.controlled)
    if options.centred_atoms:
        atoms = atoms - atoms.mean(axis=1, keepdims=True)
    mean = rows.scored.mean(axis=0) if options.centred else np.zeros(dim)
    held = Held(dictionary(atoms, mean).model)
    given = Given(held, names([options.dictionary])[0], "dictionary")
    # Losses of the others are relative to the best.
    codes = dict.fromkeys((*options.codes, "best"))
    methods = {rows: [*decomposition.coded(given, codes, options.k)]}
    bounds = decomposition.bounding(given, most, options.seed, options.controls)
    methods[few] = [*methods.get(few, ()), *bounds]
    return study_of(NAME, tuple(methods), methods.__getitem__, *decomposition.metrics(most))


def main(options: DecomposeOptions) -> None:
    rows = measure(options)
    if len({row["block"] for row in rows}) > 1:
        rows = [row for row in rows if row.get("k") == max(options.k) and row["codes"] in BRIEF]
    chosen, spans = ([row for row in rows if ("control" in row) == held] for held in (False, True))
    print(
        table("Captured variance of at most k atoms", f"block {COLUMNS}", chosen),
        table("In the span of k atoms, and of controls", CONTROLLED, spans),
        sep="\n\n",
    )


if __name__ == "__main__":
    cli.run(main)

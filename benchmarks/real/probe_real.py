"""Probes out of distribution on a real model: do better codes or dictionaries close the drop?

Concepts of tokens are exact: letters of a word, or the topic of its document. A probe of concept A
learns from rows of which none has both A and B. It is scored on rows that all have B, from
documents that it never saw and, where letters decide, of words that it never saw. The drop is by
how much it scores lower there than a probe that learned from as many rows, some of them with both.

Probes are logistic regressions. Dense ones read the activations, what a dictionary reconstructs of
them, or all its latents (k=all); few-latent probes read the k = 1, 2, 5 or 20 latents that tell the
classes apart best, or as many coordinates of the activations. Each dictionary has these codes, or
those that --codes names, encoders among them:

  own           the SAE's own codes
  own_refit     least squares on their supports
  lasso         the certified lasso on the same dictionary, at a mean L0 of --l0
  lasso_refit   least squares on the lasso's supports
  thresholded   thresholding pursuit from the lasso, but of an SAE whose codes have signs

Read the AUC before the drop: codes that tell little of A have little to lose. Rows of A and B are
withheld from the probes alone; the dictionaries learned from them too, without labels.

All rows are of documents that `train_real` holds out, unless --documents=all. Writes rows,
pairs.csv and a figure under <results_dir>/probe_real/; a run that was stopped goes on with the same
command.

  python -m sae_gap probe_real --recording=FOLDER --layer=10 --sae=FIRST,SECOND --dictionary=D.npy
"""

from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from jaxtyping import Float

from benchmarks import cli
from benchmarks.options import frozen, option
from benchmarks.real.inputs import OfRecording
from sae_gap import figures, probing
from sae_gap.analysis import Table, table, tables
from sae_gap.data import Activations, HeldOut, open_activations
from sae_gap.encoders import Linear
from sae_gap.learners import Raw
from sae_gap.lm import LM, Recorded
from sae_gap.measure import finite, learners_of, methods_of, study_of
from sae_gap.metrics import probes
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store
from sae_gap.study import Method, run

NAME = "probe_real"
CODES = ("own", "own_refit", "lasso", "lasso_refit", "thresholded")
# Concepts of words: each is paired with a topic, and these with each other.
WORDS = ("capital", "letters:abc", "suffix:s", "letters:stu", "suffix:ed")
MEETINGS = (
    "letters:abc+capital capital+suffix:s suffix:s+letters:stu letters:stu+suffix:s"
)
# Columns of the printed tables, among those of the CSV files.
SHOWN = "dictionary codes probe auc_id auc_ood drop more_drop"


@frozen
class ProbeOptions(OfRecording):
    """What to probe, and how much."""

    controls: tuple[str, ...] = option(
        ("samples", "random"), "Control dictionaries, any learner by its name, or none."
    )
    codes: tuple[str, ...] = option(
        CODES, "Codes to probe, encoders by their names too."
    )
    l0: float = option(32.0, "Mean L0 of the lasso.", least=1)
    pairs: tuple[str, ...] | None = option(
        None, "Pairs A+B, such as topic:sport+capital.  [some of words and topics]"
    )
    seeds: tuple[int, ...] = option(
        (0, 1, 2), "Seeds of the splits into training and test rows.", least=0
    )
    documents: str = option(
        "held_out",
        "Which documents to probe; take all if no SAE learned from them.",
        choices=("held_out", "all"),
    )
    rows: int = option(16_000, "Rows to code, at most.", least=1)


def usual_pairs(topics: Sequence[str]) -> list[str]:
    """Pairs of each topic with a concept of words, in both orders, and of such concepts."""
    # A plus joins the names of a pair.
    named = [f"topic:{topic}" for topic in topics if "+" not in topic]
    met = [
        f"{a}+{b}"
        for pair in zip(named, WORDS, strict=False)
        for a, b in (pair, pair[::-1])
    ]
    return [*met, *MEETINGS.split()]


def tokens_of(recorded: Recorded, lm: LM) -> probing.Tokens:
    """The tokens of a recording as text."""
    numbers, place = np.unique(recorded.tokens, return_inverse=True)
    texts = np.array([lm.tokenizer.decode([int(number)]) for number in numbers])
    topics = (
        None
        if recorded.topics is None
        else np.array(recorded.topics)[recorded.documents]
    )
    return probing.Tokens(texts[place], recorded.documents, topics)


def of_pairs(
    tokens: probing.Tokens,
    held: Activations,
    names: Sequence[str],
    seeds: Sequence[int],
    most: int,
) -> tuple[Float[np.ndarray, "n input_dim"], Mapping[str, probing.Labelled]]:
    """The activations of at most `most` rows for pairs of concepts, and the concepts to probe by
    name, without pairs whose cells are too small.
    """
    assert held.documents is not None
    # Outlier tokens are not probed, but end a word like others.
    whole = np.flatnonzero(np.isin(tokens.documents, held.documents))
    tokens = tokens.at(whole)
    places = np.searchsorted(whole, held.numbers)
    pairs = {}
    for name in names:
        first, second = probing.read_pair(name)
        a = probing.concept(first, tokens)
        b = probing.concept(second, tokens)
        pairs[name] = a.at(places), b.at(places)
    tokens = tokens.at(places)
    chosen = probing.choose_rows([*pairs.values()], tokens, most)
    tokens = tokens.at(chosen)
    labelled = {}
    for name, (a, b) in pairs.items():
        a = a.at(chosen)
        b = b.at(chosen)
        try:
            splits = {seed: probing.split_cells(a, b, tokens, seed) for seed in seeds}
        except ValueError as error:
            logging.warning("%s", error)
        else:
            labelled[name] = probing.Labelled(a.has, splits)
    if not labelled:
        raise ValueError(
            "no pair has cells that are large enough; give more documents."
        )
    return held.take(chosen), labelled


def methods(options: ProbeOptions, saes: Sequence[SAE], input_dim: int) -> list[Method]:
    """The activations, and all codes on each SAE and each control."""
    alone = dict.fromkeys(("dictionary", "codes"), "activations")
    found = [Method("activations", "activations", Raw(), Linear(), alone)]
    for learner, about in learners_of(
        saes, options.controls, options.l0, input_dim
    ).values():
        found += methods_of(learner, dict.fromkeys(options.codes), options.l0, **about)
    return found


def measure(options: ProbeOptions) -> tuple[list[Row], Table]:
    """Probes pairs; writes their means and a figure, and returns the rows and the table of means.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    folder = options.folder(NAME)
    recorded, lm = options.open()
    source = HeldOut(recorded.activations(options.layer), split_seed=0)
    train, held = source.parts
    if options.documents == "all":
        held = source.kept
    topics = recorded.topics
    documents = recorded.documents[held.numbers]
    there = {topics[number] for number in documents} if topics else ()
    pairs = options.pairs or usual_pairs(sorted(there))
    saes, _ = options.read(source.scored, train.mean, options.controls)
    chosen = methods(options, saes, source.input_dim)
    x, concepts = of_pairs(
        tokens_of(recorded, lm), held, pairs, options.seeds, options.rows
    )
    logging.info("%d rows of %d pairs", len(x), len(concepts))
    probed = probing.Probed(
        train,
        width=saes[0].num_latents,
        samples=len(x),
        keep_outliers=True,
        held_out=open_activations(x),
        concepts=concepts,
    )
    rows = finite(run(study_of(NAME, [probed], chosen, probes.METRIC), Store(folder)))
    lines = probing.overall(rows, saes[0].name)
    tables.write_table(folder, "pairs.csv", lines)
    figures.save(figures.ood_drop(lines), folder, "pairs_drop")
    return rows, table_of(lines, saes[0].name)


def table_of(lines: Sequence[Row], baseline: str) -> Table:
    """The scores of each probe, from lines that `probing.overall` compared with a baseline."""
    return table(
        f"AUC and its drop, means over {lines[0]['pairs']} pairs ± half their 95 % intervals; "
        f"more: less what own codes of {baseline} have",
        SHOWN,
        lines,
    )


def main(options: ProbeOptions) -> None:
    _, shown = measure(options)
    print(shown, end="\n\n")


if __name__ == "__main__":
    cli.run(main)

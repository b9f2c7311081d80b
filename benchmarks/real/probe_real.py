"""Probes out of distribution on a real model: do better codes, or a better dictionary, close the drop?

Concepts of tokens are exact: letters of a word, or the topic of its document. A probe of concept A learns from rows of which
none has both A and B. It is scored on rows that all have B, from documents that it never saw and, where letters decide, of
words that it never saw. The drop is by how much it scores lower there than a probe that learned from as many rows, some of them
with both.

Probes are logistic regressions. Dense ones read the activations, or what a dictionary reconstructs of them; sparse ones read
the 1, 5 or 20 latents that tell the classes apart best. Each dictionary has these codes:

  own           the SAE's own codes
  own_refit     least squares on their supports
  lasso         the certified lasso on the same dictionary, at a mean L0 of --l0
  lasso_refit   least squares on the lasso's supports

Read the AUC before the drop: codes that tell little of A have little to lose. Rows of A and B are withheld from the probes
alone; the dictionaries learned from them too, without labels.

All rows are of documents that `train_real` holds out, unless --documents=all. --sets=shifts also probes the texts of the
package sae-probes, at their last tokens: a probe learns from a set and is scored on its shifted texts. Writes rows, pairs.csv,
sets.csv and figures under <results_dir>/probe_real/; a run that was stopped goes on with the same command.

  python -m sae_gap probe_real --recording=FOLDER --layer=10 --sae=FIRST,SECOND --dictionary=D.npy
"""

import functools
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging

from benchmarks import cli
from benchmarks.real import subjects
from sae_gap import figures, measure
from sae_gap.data.activations import Activations
from sae_gap.figures import tables
from sae_gap.lm.last_tokens import last_tokens
from sae_gap.lm.pretrained import LM, load_lm
from sae_gap.lm.recording import Recorded, open_recording
from sae_gap.measure import probing
from sae_gap.measure.coding import by_encoder, code, code_lasso, least_squares
from sae_gap.runtime import progress
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results
from sae_gap.storage.folder import Folder

NAME = "probe_real"
# Raised whenever a row comes to hold something else, so that earlier rows are made again.
FORM = 1
# Latents that a sparse probe reads.
KS = (1, 5, 20)
# Rows on which the weight of the lasso is found.
MATCHED = 2_000
# Concepts of words: each meets a topic, and these meet each other.
WORDS = ("capital", "letters:abc", "suffix:s", "letters:stu", "suffix:ed")
MEETINGS = ("letters:abc+capital", "capital+suffix:s", "suffix:s+letters:stu", "letters:stu+suffix:s")
# What the tables show, of the columns of the CSV files.
SHOWN = {
    "auc_ood": "AUC out of distribution",
    "more_auc_ood": "AUC out of distribution, less that of the first SAE's own codes",
    "drop": "AUC lost out of distribution",
    "more_drop": "AUC lost, less what the first SAE's own codes lose",
    "accuracy_drop": "Accuracy lost out of distribution",
    "more_accuracy_drop": "Accuracy lost, less what the first SAE's own codes lose",
}

FLAGS = flags.FlagValues()
subjects.define_recording(FLAGS)
subjects.define(FLAGS)
flags.DEFINE_list(
    "controls", ["samples", "random"], f"Control dictionaries, of {', '.join(measure.CONTROLS)}, or none.", flag_values=FLAGS
)
cli.DEFINE_number("l0", 32.0, "Mean L0 of the lasso.", FLAGS, lower_bound=1)
flags.DEFINE_list("pairs", None, "Pairs A+B, such as topic:sport+capital.  [some of words and topics]", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the splits into training and test rows.", flag_values=FLAGS)
flags.DEFINE_enum(
    "documents",
    "held_out",
    ("held_out", "all"),
    "Which documents to probe; take all if no SAE learned from them.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "sets",
    "none",
    ("none", "shifts", "all"),
    "Sets of the package sae-probes to probe too: the 8 that have shifted texts, or all 113.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("rows", 16_000, "Rows to code, at most.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)


def usual_pairs(topics: Sequence[str]) -> list[str]:
    """Each topic with a concept of words, in both orders, and such concepts with each other."""
    # A pair is written with a plus.
    topics = [topic for topic in topics if "+" not in topic]
    met = [(f"topic:{topic}", WORDS[place % len(WORDS)]) for place, topic in enumerate(topics[: len(WORDS)])]
    return [f"{one}+{other}" for pair in met for one, other in (pair, pair[::-1])] + list(MEETINGS)


def tokens_of(recorded: Recorded, lm: LM) -> probing.Tokens:
    """The tokens of a recording in letters."""
    numbers, place = np.unique(recorded.tokens, return_inverse=True)
    texts = np.array([lm.tokenizer.decode([int(number)]) for number in numbers])
    topics = None if recorded.topics is None else np.array(recorded.topics)[recorded.documents]
    return probing.Tokens(texts[place], recorded.documents, topics)


class Probed(NamedTuple):
    """What is probed: activations, and for each task which rows have its concept and how each seed splits them.

    Attributes:
      x: (n, input_dim).
      has: by task, (n,).
      splits: by task and seed.
    """

    x: np.ndarray
    has: dict[str, np.ndarray]
    splits: dict[tuple[str, int], probing.Split]


def of_pairs(tokens: probing.Tokens, held: Activations, names: Sequence[str], seeds: Sequence[int], most: int) -> Probed:
    """At most so many rows for pairs of concepts; a pair whose cells are too small is told and left out."""
    assert held.documents is not None
    # Outlier tokens are left out of what is probed, but end a word as others do.
    whole = np.flatnonzero(np.isin(tokens.documents, held.documents))
    tokens, places = tokens.at(whole), np.searchsorted(whole, held.numbers)
    known = {name: probing.concept(name, tokens).at(places) for pair in names for name in probing.read_pair(pair)}
    tokens = tokens.at(places)
    pairs = {name: (known[one], known[other]) for name in names for one, other in (probing.read_pair(name),)}
    chosen = probing.choose_rows(list(pairs.values()), tokens, most)
    found = Probed(held.take(chosen), {}, {})
    for name, (a, b) in pairs.items():
        try:
            splits = [probing.split_cells(a.at(chosen), b.at(chosen), tokens.at(chosen), seed) for seed in seeds]
        except ValueError as error:
            logging.warning("%s", error)
            continue
        found.has[name] = a.has[chosen]
        found.splits.update({(name, seed): split for seed, split in zip(seeds, splits, strict=True)})
    if not found.splits:
        raise ValueError("no pair has cells that are large enough; give more documents.")
    return found


def of_sets(lm: LM, folder: Folder, seeds: Sequence[int]) -> Probed:
    """The last tokens of the texts of sae-probes; activations are kept in a folder."""
    sets = [probing.read_set(name, *files) for name, files in probing.find_sets(every=FLAGS.sets == "all").items()]
    parts, starts = [], np.cumsum([0, *(len(each.labels) for each in sets)])
    with progress.bar(len(sets), "texts") as line:
        for each in sets:
            name = (
                f"{results.key({'lm': lm.identity, 'layer': FLAGS.layer, 'texts': results.digest([np.array(each.texts)])})}.npy"
            )
            if not folder.exists(name):
                content = io.BytesIO()
                np.save(content, last_tokens(lm, each.texts, FLAGS.layer))
                folder.write(name, content.getvalue())
            parts.append(np.load(io.BytesIO(folder.read(name)), allow_pickle=False))
            line.update(1)
    found = Probed(np.concatenate(parts), {}, {})
    for each, start in zip(sets, starts, strict=False):
        found.has[each.name] = np.zeros(len(found.x), bool)
        found.has[each.name][start : start + len(each.labels)] = each.labels
        for seed in seeds:
            train, test = each.split(seed)
            moved = ({kind: rows + start for kind, rows in part.items()} for part in (train, test))
            found.splits[each.name, seed] = probing.Split(*moved)
    return found


def probe(store: results.Store, probed: Probed, tried: Sequence[SAE], seeds: Sequence[int]) -> list[results.Row]:
    """Probes the activations and every dictionary, but for what the store has; returns the rows of this run."""
    wanted = [(pair, seed) for pair in probed.has for seed in seeds]
    data = {"study": NAME, "form": FORM, "rows": results.digest([probed.x])}
    known = {row["job"] for row in store.rows()}
    keys: list[str] = []
    with progress.bar(len(wanted) * (1 + len(tried)), NAME) as line:
        for subject in (None, *tried):
            told = {"dictionary": "activations", "role": "activations"} if subject is None else subject.columns
            made = data | told | ({} if subject is None else {"identity": subject.identity, "l0": FLAGS.l0})
            jobs = {each: results.key(made | {"pair": each[0], "seed": each[1]}) for each in wanted}
            keys += jobs.values()
            features = None
            for (pair, seed), job in jobs.items():
                if job not in known:
                    features = features_of(subject, probed.x) if features is None else features
                    split = probed.splits[pair, seed]
                    found = [
                        told | about | probing.score_pair(values, probed.has[pair], split, fit) | about_split(split)
                        for about, values, fit in features
                    ]
                    places = [{"study": NAME, "job": job, "key": f"{job}-{place}"} for place in range(len(found))]
                    of = {"pair": pair, "seed": seed}
                    store.append([row | of | place | results.provenance() for row, place in zip(found, places, strict=True)])
                line.update(1)
    place = {job: place for place, job in enumerate(keys)}
    return sorted((row for row in store.rows() if row["job"] in place), key=lambda row: place[row["job"]])


def about_split(split: probing.Split) -> dict[str, int]:
    """How many rows train each probe, and how many of each cell test it."""
    return {"train_rows": len(split.train["all"]), "test_rows": len(split.test["11"])}


def features_of(subject: SAE | None, x: np.ndarray) -> list[tuple[dict[str, Any], Any, Any]]:
    """What is probed, of each the columns that tell it, the features of all rows, and the fit."""
    if subject is None:
        return [({"codes": "activations", "probe": "dense"}, x, probing.fit_dense)]
    some = x[measure.evenly_spaced(len(x), MATCHED)]
    lam = measure.find_weight(subject, some, FLAGS.l0)
    coded = dict(zip(("lasso", "lasso_refit"), code_lasso(subject, x, lam), strict=True))
    certificate = coded["lasso"].certificate
    if subject.model.encode is not None:
        mine = code(subject, x, by_encoder(subject))
        coded = {"own": mine, "own_refit": code(subject, x, least_squares(subject, mine.codes))} | coded
    logging.info("%s is coded; largest relative duality gap %.1e", subject.name, certificate)
    found: list[tuple[dict[str, Any], Any, Any]] = []
    for kind, (values, guess, _) in coded.items():
        about = {"codes": kind, "lam": lam, "active": values.count_nonzero() / len(x), "fvu": measure.fvu(x, guess)}
        about |= {"certificate": certificate} if kind.startswith("lasso") else {}
        found.append((about | {"probe": "dense"}, guess, probing.fit_dense))
        for k in KS:
            found.append((about | {"probe": f"k={k}"}, values, functools.partial(probing.fit_sparse, k=k)))
    return found


def report(folder: Folder, rows: Sequence[results.Row], baseline: str, name: str, titles: Mapping[str, str]) -> str:
    """Writes the table of means as CSV and its figure, and returns what is printed of it."""
    lines = probing.overall(rows, baseline)
    tables.write_table(folder, f"{name}.csv", lines)
    figures.save(figures.ood_drop(lines, rows, name), folder, f"{name}_drop")
    probes = {line["probe"]: line["probe"] for line in lines}
    told = []
    for score, title in titles.items():
        cells: dict[tuple[str, str], results.Row] = {}
        for line in (line for line in lines if line[score] is not None):
            place, half = (line["dictionary"], line["codes"]), line[f"{score}_half"]
            cell = cells.setdefault(place, {"dictionary": place[0], "codes": place[1]})
            cell[line["probe"]] = f"{line[score]:.3f}" + ("" if half is None else f" ± {half:.3f}")
        if cells:
            columns = {"dictionary": "dictionary", "codes": "codes"} | probes
            told.append(f"{title}\n{tables.format_table(list(cells.values()), columns)}")
    return "\n\n".join([*told, f"Means over {lines[0]['pairs']} {name}, ± half their intervals of 95 %."])


def main() -> dict[str, list[results.Row]]:
    if not FLAGS.recording or not (FLAGS.sae or FLAGS.dictionary):
        raise cli.UsageError("there is nothing to probe; give --recording and --sae or --dictionary.")
    controls = subjects.controls(FLAGS.controls)
    seeds = cli.parse_integers("seeds", FLAGS.seeds, least=0)
    folder = cli.folder(FLAGS.results_dir) / NAME
    with cli.usage():
        recorded = open_recording(FLAGS.recording)
        plan = measure.Plan((), recorded.activations(FLAGS.layer))
        probed = plan.parts[1] if FLAGS.documents == "held_out" else plan.kept
        documents = np.unique(recorded.documents[probed.numbers])
        names = FLAGS.pairs or usual_pairs(
            sorted({recorded.topics[document] for document in documents} if recorded.topics else ())
        )
        lm = load_lm(FLAGS.model, FLAGS.tokenizer)
        recorded.require(lm)
        tasks = {"pairs": of_pairs(tokens_of(recorded, lm), probed, names, seeds, FLAGS.rows)}
        options = {"controls": controls, "anyway": FLAGS.anyway}
        tried, _ = subjects.read(FLAGS.sae, FLAGS.dictionary, plan.scored, plan.parts[0].mean, **options)
        tried += [measure.control_sae(name, plan.parts[0], tried[0], FLAGS.l0, plan.seed) for name in controls]
        folder.require_writable()
        if FLAGS.sets != "none":
            tasks["sets"] = of_sets(lm, folder / "texts", seeds)
    found = {}
    for name, task in tasks.items():
        logging.info("%d rows of %d %s; %d dictionaries", len(task.x), len(task.has), name, len(tried))
        with cli.usage():
            found[name] = rows = probe(results.Store(folder), task, tried, seeds)
        titles = SHOWN if name == "pairs" else {"auc_id": "AUC on texts of the set"} | SHOWN
        sys.stdout.write(report(folder, rows, tried[0].name, name, titles) + "\n\n")
    return found


if __name__ == "__main__":
    cli.run(main, FLAGS)

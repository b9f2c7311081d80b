"""What does a reconstruction cost the model, in nats: the encoder's values, its support, or the dictionary?

Puts reconstructions of a layer's activations back into the model that was recorded, on held-out documents, and takes the loss
of the next token and the divergence KL(model ‖ patched). Each dictionary is scored with the codes of the certified lasso, with
least squares on their support, and with orthogonal matching pursuit; an SAE also with its own codes and with least squares on
their support. The differences tell what the values, the support and the dictionary cost. Outlier tokens keep their activation.
Writes rows, summary.csv, splits.csv and a figure under <results_dir>/downstream/. A run that was stopped goes on with the same
command.

  python -m sae_gap downstream --recording=FOLDER --layer=10 --sae=FIRST,SECOND
  python -m sae_gap downstream --recording=FOLDER --layer=10 --dictionary=D.npy --controls=random,samples --l0=16,32
"""

import csv
import dataclasses
import functools
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags, logging

from benchmarks import cli
from benchmarks.real import subjects as subjects_of
from sae_gap import figures, measure
from sae_gap.figures import tables
from sae_gap.lm.pretrained import LM, load_lm
from sae_gap.lm.recording import Recorded, open_recording
from sae_gap.measure.controls import check_control
from sae_gap.measure.downstream import FIRST, Downstream
from sae_gap.measure.patching import CODES, PARTS, STUDY, Candidate, Patching, over_documents, split_lines
from sae_gap.measure.subject import digest
from sae_gap.storage import results
from sae_gap.storage.results import Row

NAME = STUDY
PUBLISHED = pathlib.Path(__file__).parents[1] / "report" / "published_downstream.csv"
SOURCE = "another model: SmolLM2-135M base, bf16, by EleutherAI"
NAMES = {"kl": "KL", "ce": "ΔCE", "fvu": "FVU"}
COLUMNS = {"l0": "L0", "fvu": "FVU", "kl": "KL", "delta_ce": "ΔCE", "kl_score": "KL score"}
COLUMNS |= {"ce_score": "CE score", "ce_score_mean": "CE score (mean)", "certificate": "certificate"}

FLAGS = flags.FlagValues()
subjects_of.define_recording(FLAGS)
subjects_of.define(FLAGS)
flags.DEFINE_list("controls", [], f"Control dictionaries, of {', '.join(measure.CONTROLS)}.  [none]", flag_values=FLAGS)
flags.DEFINE_list("l0", ["16", "32", "64", "128"], "Mean L0s at which dictionaries are compared.", flag_values=FLAGS)
flags.DEFINE_list("codes", list(CODES), f"Codes to put back, of {', '.join(CODES)}.", flag_values=FLAGS)
flags.DEFINE_integer(
    "tokens", 8_192, "Held-out tokens to run, rounded up to whole documents.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("first", FIRST, "Tokens at the start of a window that are not averaged.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_enum("outliers", "drop", ("drop", "keep"), "Whether to replace and average outlier tokens too.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Draws which of the held-out documents are run.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)


def main() -> list[Row]:
    folder = cli.folder(FLAGS.results_dir) / STUDY
    if not FLAGS.recording or not (FLAGS.sae or FLAGS.dictionary):
        raise cli.UsageError("there is nothing to measure; give --recording and --sae or --dictionary.")
    cli.require_one_of("codes", FLAGS.codes, CODES)
    l0 = cli.parse_integers("l0", FLAGS.l0, least=1)
    with cli.usage():
        recorded = open_recording(FLAGS.recording)
        activations = recorded.activations(FLAGS.layer)
        # The split of `train_real`, whatever the seed: what its SAEs learned from is not scored.
        plan = measure.Plan((), activations, keep_outliers=FLAGS.outliers == "keep")
        if max(l0) > (densest := activations.input_dim // 4):
            raise ValueError(f"--l0 {max(l0)} is more than a quarter of the dimensions; ask for at most {densest}.")
        candidates = _candidates(plan, l0)
        folder.require_writable()
        lm = load_lm(FLAGS.model, FLAGS.tokenizer)
        recorded.require(lm)
        documents = _documents(recorded, plan)
        downstream, identity = _downstream(lm, recorded, documents)
    told = f"{len(downstream.activations):,} tokens of {len(documents)} held-out documents"
    logging.info("%s run, %d averaged; clean loss %.3f nats", told, downstream.scored.sum(), downstream.clean.ce.mean())
    if len(activations.outliers.rows):
        logging.info("%s; they are %s.", activations.outliers, "replaced" if plan.keep_outliers else "left as they are")
    with cli.usage():
        rows = Patching(downstream, identity, results.Store(folder), l0, FLAGS.codes).run(candidates)
    sys.stdout.write(write(folder, rows))
    return rows


def _documents(recorded: Recorded, plan: measure.Plan) -> list[int]:
    """Held-out documents in random order, as many as make the tokens that are asked for."""
    names, sizes = np.unique(recorded.documents[plan.parts[1].numbers], return_counts=True)
    order = np.random.default_rng(FLAGS.seed).permutation(len(names))
    return names[order[: 1 + np.searchsorted(np.cumsum(sizes[order]), FLAGS.tokens)]].tolist()


def _downstream(lm: LM, recorded: Recorded, documents: Sequence[int]) -> tuple[Downstream, str]:
    """The model on these documents, and what tells it from others."""
    batches = [batch for batch, _ in recorded.batches(documents)]
    members = np.concatenate([batch.documents[batch.documents >= 0] for batch in batches])
    options = {"first": FLAGS.first, "outliers": FLAGS.outliers, "special": _special(lm.tokenizer)}
    windows = [batch.windows for batch in batches]
    parts = [np.asarray(part) for each in windows for part in (each.tokens, each.segments, each.positions)]
    told = {name: value for name, value in options.items() if name != "special"}
    told |= {"model": lm.identity, "layer": FLAGS.layer, "texts": digest([members, *parts])}
    return Downstream.of_model(lm.model, windows, FLAGS.layer, documents=members, **options), results.key(told)


def _special(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer calls special."""
    return [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]


def _candidates(plan: measure.Plan, l0: Sequence[int]) -> list[Candidate]:
    """What is to be measured: SAEs, dictionaries and controls of the width of the first."""
    train = plan.parts[0]
    controls = subjects_of.controls(FLAGS.controls)
    options = {"controls": controls, "anyway": FLAGS.anyway}
    subjects, loaded = subjects_of.read(FLAGS.sae, FLAGS.dictionary, plan.scored, train.mean, **options)
    narrowest = min(subjects, key=lambda each: each.num_latents)
    if max(l0) >= narrowest.num_latents:
        raise cli.UsageError(f"{narrowest.name} has {narrowest.num_latents} atoms; ask for less than that as --l0.")
    for name, report in loaded.items():
        _check_place(name, report.notes.get("hook_name", report.notes.get("hookpoint", "")))
    found = [
        Candidate(each.name, each.identity, encoder=each.encode is not None, make=functools.partial(dataclasses.replace, each))
        for each in subjects
    ]
    width, at = subjects[0].num_latents, l0[len(l0) // 2]
    for name in controls:
        check_control(name, train.num_samples, width)
        identity = [name, width, at, plan.fingerprint, subjects[0].signed]
        make = functools.cache(functools.partial(subjects_of.control, name, plan, subjects[0], at))
        found.append(Candidate(name, identity, encoder=False, make=make))
    return found


def _check_place(name: str, hook: str) -> None:
    """Refuses an SAE that says that it is of another place than the one behind the block."""
    place = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)|(?:model\.)?layers\.(\d+)", hook)
    # sparsify names the folder alone, which may be called anything.
    if "." in hook and place is None:
        raise cli.UsageError(f"{name} was trained at {hook}; give an SAE of the residual stream.")
    if place is not None and int(place[1] or place[3]) - (place[2] == "pre") != FLAGS.layer:
        raise cli.UsageError(f"{name} was trained at {hook}, not behind block {FLAGS.layer}; give its own as --layer.")


def published() -> list[Row]:
    """Another model's figures, a line for each dictionary and L0."""
    with PUBLISHED.open(newline="") as file:
        lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [
        {"dictionary": line["dictionary"], "num_latents": int(line["num_latents"])}
        | {name: float(line[name]) for name in ("l0", "fvu", "kl")}
        for line in lines
    ]


def write(folder: Any, rows: Sequence[Row]) -> str:
    """Writes the tables and the figure, and returns what the terminal shows."""
    clean, scored = rows[0], [row for row in rows if row["kind"] == "score"]
    listed = ("ce_sums", "kl_sums", "errors")
    columns = list(dict.fromkeys(name for row in scored for name in row if name not in listed))
    tables.write_table(folder, "summary.csv", [{name: row.get(name) for name in columns} for row in scored])
    figures.save(figures.fvu_curve(rows, published(), SOURCE), folder, "curve")
    lines = [
        {"dictionary": row["dictionary"], "codes": row["codes"]} | {f"{name}_mean": row.get(name) for name in COLUMNS}
        for row in scored
    ]
    texts = [
        f"Nats above a clean loss of {clean['ce']:.3f} (zeros {clean['ce_zero']:.3f}, the mean {clean['ce_mean']:.3f})",
        tables.format_table(lines, {"dictionary": "dictionary", "codes": "codes", **COLUMNS}),
    ]
    splits = split_lines(rows)
    if splits:
        tables.write_table(folder, "splits.csv", splits)
        texts += [f"What each encoder's loss is made of, with intervals of 95 % {over_documents(clean)}", _splits(splits)]
    return "\n\n".join(texts) + "\n"


def _splits(lines: Sequence[Row]) -> str:
    shown = []
    for line in lines:
        row: Row = {"of": line["dictionary"], "loss": NAMES[line["loss"]], "total": f"{line['total']:.3f}"}
        for part in PARTS:
            row[part] = f"{line[f'{part}_part']:.3f} ({line[f'{part}_low']:.3f}, {line[f'{part}_high']:.3f})"
        shown.append(row | {"rest": f"{line['rest']:.3f}", "best": line["best"]})
    headings = {"of": "dictionary", "loss": "loss", "total": "total"} | {part: f"{part} part" for part in PARTS}
    return tables.format_table(shown, headings | {"rest": "rest", "best": "best"})


if __name__ == "__main__":
    cli.run(main, FLAGS)

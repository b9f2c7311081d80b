"""Writes the outputs of a measurement: summary.csv, codes.csv, figures, model cards, its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import pages
from sae_gap import figures, measure
from sae_gap.analysis import BEST, FEW_DOCUMENTS, at, sentence, table, table_of
from sae_gap.storage import Folder, Row, grouped

ABOUT = f"""
The encoder's codes are compared with the best codes on the very same dictionary, and the dictionary
with others of the same width. All figures are of the same rows, of documents that controls did not
learn from. Intervals are of 95 %, over documents or, where none are named, over runs of rows, as
long as the correlation of neighbours asks for. {pages.PROVED}

An encoder loses variance in two parts: in values, what least squares on its own supports gains, and
in support, what the best codes gain beyond that. The best codes are least squares on the supports
of the lasso at an equal mean L0, or a screened pursuit of twice as many atoms that leaves out those
whose loss costs least, whichever explain more. The support part is a sum: in selection, what such a
pursuit among the latents that the encoder proposes gains, and in screening, what the best codes
gain beyond that.

FVU is the squared error over the squared distance of the activations from their mean, both summed
over samples and dimensions in the activations' own units: 0 is perfect, 1 is the mean alone. The
explained share is 1 - FVU. At an equal number of latents the lasso itself reconstructs worse than
an encoder that keeps its values, since the l1 norm shrinks them; the best codes are what an encoder
should be compared with. In the tables "curve" is the certified lasso at
the same L0, and "refit" is after least squares on the supports. The objective of the lasso also
counts its penalty, so its gap has a split of its own, which is not the one into values and support
above: scale (`scale_share`), what one factor for all codes removes; refit (`values_share`), what
the lasso on the encoder's own support removes beyond that; and other support (`support_share`).

A better reconstruction is not better features: nothing here says what a latent means.
"""
# Two scales that may disagree.
ORDERS = (
    "By the lasso's objective the order may be the opposite one: it also counts the sum of the "
    "codes, which an SAE with few or small codes keeps low although it explains less of the "
    "variance."
)
STANDINGS = (
    "dictionary rank own_fvu best_fvu values_part support_part dictionary_part l0 "
    "dead_latents cost"
)
# The share by which L0s at which dictionaries are ranked may differ.
ALIKE = 0.02
# Rows with these columns equal are scored on the same activations.
SCORED = (
    *("activations", "inputs", "samples", "seed", "split_seed", "keep_outliers"),
    *("held_out", "runs"),
)
# Columns of each table, by their names in summary.csv and codes.csv.
CURVE = (
    "dictionary l0 fvu refit_fvu at_l0 curve_fvu curve_refit_fvu best_fvu best_codes "
    "refit_fvu_ratio certificate"
)
CODES = "dictionary codes level l0 fvu fvu_outliers own_certificate"
GAP = "dictionary lam l0 optimum_l0 relative_gap scale_share values_share support_share"
SUPPORT = (
    "dictionary jaccard overlap_precision overlap_recall fired_only used_only unused"
)
ATOMS = "dictionary num_latents dead_atoms duplicates coherence_median coherence_95 agreement"
WORST = "dictionary index document gap relative_gap"
LOADED = "dictionary library architecture normalisation fvu l0 dead"
_TITLE = (
    "The best first, parts in points of 100 and cost in million multiply-adds a row: "
)
# How to make intervals over whole documents.
_UNNAMED = (
    "The activations name no documents: runs of neighbouring rows take their place, as long as the "
    "correlation of neighbours asks for. To compare and hold out whole documents, give an array "
    "`documents` beside that of the activations, with an integer for each row."
)
_MLP = (
    "An MLP computes what transcoders explain here from what they read, so all that their encoders "
    "lose is amortisation."
)
_LOST = "What each SAE loses at its own L0, and its parts ± half their 95 % intervals"
_SAMPLES = "Samples of the largest gaps"
# With fewer samples intervals are wide.
FEW = 500


def write(
    folder: Folder,
    rows: Sequence[Row],
    stored: Sequence[Row],
    source: Any,
    loaded: Mapping[str, Any],
    command: str,
    notes: Mapping[str, str],
) -> str:
    """Writes all files of a measurement except its rows, replacing those of an earlier one.

    Args:
      folder: the target.
      rows: rows of the measurement.
      stored: all rows in the folder, those of earlier measurements too.
      source: source of the plan.
      loaded: how each SAE was read, by name.
      command: the command of the run.
      notes: facts on the run for a reader.

    Returns:
      The text to print: how several stand, or the tables of one, and the verdicts; and what looks
      wrong.
    """
    for name in folder.names():
        if name.endswith((".png", ".pdf")):
            folder.remove(name)
    verdicts = measure.verdict(
        rows, {name: report.wrong for name, report in loaded.items()}
    )
    dead = {each.dictionary for each in verdicts if each.dead}
    curves, gaps, atoms = (
        read(rows)
        for read in (measure.curve_lines, measure.gap_lines, measure.atom_lines)
    )
    joined: Any = {}
    for line in [*curves, *gaps, *atoms]:
        joined.setdefault(line["dictionary"], {}).update(line)
    encoded = [
        line for line in gaps if "gap" in line and line["dictionary"] not in dead
    ]
    drawn = {
        "curve": figures.fvu_curve(rows),
        "gap_parts": figures.gap_parts(encoded),
        "coherence": figures.coherence(rows),
    }
    rest = [
        table(*section)
        for section in [
            ("Reconstruction", CURVE, curves),
            ("All codes", CODES, [row for row in rows if "times" not in row]),
            (
                "The gap of the lasso's objective and its parts, as shares of the best",
                GAP,
                encoded,
            ),
            ("Supports: the encoder's beside the best", SUPPORT, encoded),
            ("Atoms", ATOMS, atoms),
            (_SAMPLES, WORST, measure.worst_lines(rows, source)),
            (
                "As loaded",
                LOADED,
                [of.columns | {"dictionary": name} for name, of in loaded.items()],
            ),
        ]
        if section[-1]
    ]
    lost = [each.line for each in verdicts if each.line is not None]
    answers = [table_of(lost, _LOST)] if lost else []
    # One SAE's tables but those of samples; a reader of several begins with how they stand.
    printed = [each for each in [*answers, *rest] if each.title != _SAMPLES]
    groups = standings(rows, stored)
    ranked = [table(_TITLE + title, STANDINGS, found) for title, found in groups]
    if len(ranked) > 1 or len(groups[0][1]) > 1:
        answers = ranked + answers
    doubts = [
        f"{name}: {doubt}" for name, report in loaded.items() for doubt in report.wrong
    ]
    said = [f"Partial: {notes['partial']}"] if "partial" in notes else []
    said += [f"What looks wrong:\n\n{_listed(doubts)}"] if doubts else []
    if len(verdicts) - len(dead) > 1:
        verdicts, first = measure.ranking(verdicts)
        said.append(f"{first} {ORDERS}")
        printed = []
    printed = ranked[: len(groups[0][1]) > 1] + printed
    said += [_MLP] * source.activations.of_mlp
    samples = rows[0]["num_scored"]
    documents = len(rows[0]["variance"])
    unnamed = source.whole.documents is None
    held = "split_seed" in rows[0]
    unit = f"{'run' if unnamed else 'document'}{'s' * (documents > 1)}"
    on = f"{samples:,} rows of {documents} {'held-out ' * held}{unit}"
    counted = f"{on} are scored"
    stand = {line["dictionary"]: line for _, found in groups[::-1] for line in found}
    for each in verdicts:
        name = each.dictionary
        sentences = str(each).splitlines()
        sentences += [] if each.line is None else [f"Parts: {sentence(each.line)}"]
        said.append(f"{name}:\n\n{_listed(sentences)}")
        card = pages.model_card(
            name=name, line=stand[name], sentences=sentences, scored=on
        )
        folder.write(f"{name.replace('/', '_')}.model_card.md", card.encode())
    if samples < FEW or documents < FEW_DOCUMENTS:
        more = "; a larger --held_out scores more" * held
        said.append(f"Only {counted}, which are few to judge by{more}.")
    said += [_UNNAMED] * unnamed
    page = pages.Page(
        "Your own SAE: is it the loading, the encoder or the dictionary?",
        ABOUT.strip(),
        command,
        "\n\n".join(said),
        tables=rest,
        notes={**notes, "scored": counted},
        answers=answers,
    )
    pages.publish(
        folder,
        page,
        rows[-1],
        drawn.items(),
        {"summary": [*joined.values()], "codes": rows},
    )
    return "\n\n".join([*map(str, printed), *said])


def standings(
    rows: Sequence[Row], stored: Sequence[Row]
) -> list[tuple[str, list[Row]]]:
    """How the SAEs of a measurement stand, with those that earlier ones left in its folder and
    scored on the same rows at the same L0.

    Returns:
      For those with a skip and those without, those of the measurement first: what they were scored
      on, and the lines of `measure.standings`, the best first.
    """
    common = at(rows, BEST, "common")
    every = [*rows]
    level = common["l0"]
    skips = "skip" in common
    first = rows[0]
    here = {row["learner"].get("model") for row in rows}
    alike = [
        row | {"model": row["learner"].get("model")}
        for row in stored
        if row.get("fvu") is not None
        and all(row.get(name) == first.get(name) for name in SCORED)
        # Runs at several L0s may have measured it.
        and (row.get("level") != "common" or _near(row["l0"], level))
    ]
    for (model,), found in grouped(alike, ("model",)).items():
        best = at(found, BEST, "common")
        name = found[0]["dictionary"]
        # Controls have no model, and what a killed run left may lack the best codes.
        if (
            model is None
            or model in here
            or best is None
            or not _near(best["l0"], level)
        ):
            continue
        if any(row["dictionary"] == name for row in every):
            name = f"{name} ({model[:4]})"
        every += [row | {"dictionary": name} for row in found]
    verdicts = measure.verdict(every)
    read = f" read from {first['inputs'][:6]}" if "inputs" in first else ""
    title = (
        f"{first['num_scored']:,} rows of {first['activations'][:6]}{read}, seed {first['seed']}, "
        f"L0 {verdicts[0].common['l0']:.3g}"
    )
    groups = []
    # A skip explains without atoms.
    for skip in (skips, not skips):
        those = [each for each in verdicts if ("skip" in each.common) == skip]
        those.sort(key=lambda each: (each.dead, -each.explained, each.dictionary))
        if those:
            groups.append((title + ", with a skip" * skip, measure.standings(those)))
    return groups


def _near(l0, level):
    return abs(l0 - level) <= ALIKE * level


def _listed(lines):
    return "\n".join(f"- {line}" for line in lines)

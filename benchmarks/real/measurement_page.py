"""Writes the outputs of a measurement: summary.csv, codes.csv, figures, model cards, its page."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report import pages
from sae_gap import figures, measure
from sae_gap.analysis import BEST, FEW_DOCUMENTS, Table, at, sentence, table, table_of
from sae_gap.analysis.verdicts import ALIKE, in_order
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
# Rows with these columns equal are scored on the same activations.
SCORED = "activations inputs samples seed split_seed keep_outliers held_out runs"
_TITLE = (
    "The best first, parts in points of 100 and cost in million multiply-adds a row: "
)
_LOST = "What each SAE loses at its own L0, and its parts ± half their 95 % intervals"
_SAMPLES = "Samples of the largest gaps"
# With fewer samples intervals are wide.
FEW = 500


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a measurement found.

    Attributes:
      rows: its rows.
      stored: all rows in the folder, those of earlier measurements too.
      source: source of the plan.
      loaded: how each SAE was read, by name.
    """

    rows: Sequence[Row]
    stored: Sequence[Row]
    source: Any
    loaded: Mapping[str, Any]

    @functools.cached_property
    def verdicts(self) -> list[Any]:
        """The verdict on each SAE."""
        doubts = {name: report.wrong for name, report in self.loaded.items()}
        return measure.verdict(self.rows, doubts)

    @functools.cached_property
    def alive(self) -> list[str]:
        """The names of SAEs that are not dead."""
        return [each.dictionary for each in self.verdicts if not each.dead]

    @functools.cached_property
    def gaps(self) -> list[Row]:
        """The lines of `gap_lines` of encoders that are not dead."""
        lines = measure.gap_lines(self.rows)
        return [
            line for line in lines if "gap" in line and line["dictionary"] in self.alive
        ]

    @functools.cached_property
    def standings(self) -> list[tuple[str, list[Row]]]:
        """How the SAEs stand, those of this measurement's kind first."""
        return standings(self.rows, self.stored)

    @property
    def has_rivals(self) -> bool:
        """True if there are several SAEs of a kind."""
        return len(self.standings[0][1]) > 1

    def summary(self) -> list[Row]:
        """A line for each dictionary, with the columns of all tables."""
        joined: dict[str, Row] = {}
        for read in (measure.curve_lines, measure.gap_lines, measure.atom_lines):
            for line in read(self.rows):
                joined.setdefault(line["dictionary"], {}).update(line)
        return [*joined.values()]

    def scored(self) -> str:
        """How many rows of what are scored."""
        unit = "document" if self.source.whole.documents is not None else "run"
        documents = len(self.rows[0]["variance"])
        if documents > 1:
            unit += "s"
        if "split_seed" in self.rows[0]:
            unit = f"held-out {unit}"
        return f"{self.rows[0]['num_scored']:,} rows of {documents} {unit}"


def write(
    folder: Folder, found: Measurement, command: str, notes: Mapping[str, str]
) -> str:
    """Writes all files of a measurement except its rows, replacing those of an earlier one.

    Args:
      folder: the target.
      found: the measurement.
      command: the command of the run.
      notes: facts on the run for a reader.

    Returns:
      The text to print: how several stand, or the tables of one, and the verdicts; and what looks
      wrong.
    """
    for name in folder.names():
        if name.endswith((".png", ".pdf")):
            folder.remove(name)
    tables = [each for each in sections(found) if each.lines]
    lost = [each.line for each in found.verdicts if each.line is not None]
    parts = [table_of(lost, _LOST)] if lost else []
    ranked = [
        table(_TITLE + title, STANDINGS, lines) for title, lines in found.standings
    ]
    # A reader of several begins with how they stand.
    answers = parts
    if len(ranked) > 1 or found.has_rivals:
        answers = ranked + parts
    texts = findings(found, notes.get("partial"))
    page = pages.Page(
        "Your own SAE: is it the loading, the encoder or the dictionary?",
        ABOUT.strip(),
        command,
        "\n\n".join(texts),
        tables=tables,
        notes={**notes, "scored": f"{found.scored()} are scored"},
        answers=answers,
    )
    drawn = {
        "curve": figures.fvu_curve(found.rows),
        "gap_parts": figures.gap_parts(found.gaps),
        "coherence": figures.coherence(found.rows),
    }
    pages.publish(
        folder,
        page,
        found.rows[-1],
        drawn.items(),
        {"summary": found.summary(), "codes": found.rows},
    )
    write_cards(folder, found)
    printed = ranked[:1] if found.has_rivals else []
    if len(found.alive) < 2:
        # One SAE's tables but those of samples.
        printed += parts + [each for each in tables if each.title != _SAMPLES]
    return "\n\n".join([*map(str, printed), *texts])


def sections(found: Measurement) -> list[Table]:
    """The tables of the page, in order; those without lines are not shown."""
    return [
        table(
            "Reconstruction",
            "dictionary l0 fvu refit_fvu at_l0 curve_fvu curve_refit_fvu best_fvu best_codes "
            "refit_fvu_ratio certificate",
            measure.curve_lines(found.rows),
        ),
        table(
            "All codes",
            "dictionary codes level l0 fvu fvu_outliers own_certificate",
            [row for row in found.rows if "times" not in row],
        ),
        table(
            "The gap of the lasso's objective and its parts, as shares of the best",
            "dictionary lam l0 optimum_l0 relative_gap scale_share values_share support_share",
            found.gaps,
        ),
        table(
            "Supports: the encoder's beside the best",
            "dictionary jaccard overlap_precision overlap_recall fired_only used_only unused",
            found.gaps,
        ),
        table(
            "Atoms",
            "dictionary num_latents dead_atoms duplicates coherence_median coherence_95 agreement",
            measure.atom_lines(found.rows),
        ),
        table(
            _SAMPLES,
            "dictionary index document gap relative_gap",
            measure.worst_lines(found.rows, found.source),
        ),
        table(
            "As loaded",
            "dictionary library architecture normalisation fvu l0 dead",
            [
                report.columns | {"dictionary": name}
                for name, report in found.loaded.items()
            ],
        ),
    ]


def findings(found: Measurement, partial: str | None) -> list[str]:
    """The paragraphs of the answer: what looks wrong, the verdicts, and what limits them."""
    texts = []
    if partial is not None:
        texts.append(f"Partial: {partial}")
    doubts = [
        f"{name}: {doubt}"
        for name, report in found.loaded.items()
        for doubt in report.wrong
    ]
    if doubts:
        texts.append(f"What looks wrong:\n\n{_listed(doubts)}")
    verdicts = found.verdicts
    if len(found.alive) > 1:
        verdicts, first = measure.ranking(verdicts)
        texts.append(f"{first} {ORDERS}")
    if found.source.activations.of_mlp:
        texts.append(
            "An MLP computes what transcoders explain here from what they read, so all that their "
            "encoders lose is amortisation."
        )
    for verdict in verdicts:
        texts.append(f"{verdict.dictionary}:\n\n{_listed(sentences_of(verdict))}")
    first_row = found.rows[0]
    if first_row["num_scored"] < FEW or len(first_row["variance"]) < FEW_DOCUMENTS:
        more = "; a larger --held_out scores more" if "split_seed" in first_row else ""
        texts.append(
            f"Only {found.scored()} are scored, which are few to judge by{more}."
        )
    if found.source.whole.documents is None:
        texts.append(
            "The activations name no documents: runs of neighbouring rows take their place, as "
            "long as the correlation of neighbours asks for. To compare and hold out whole "
            "documents, give an array `documents` beside that of the activations, with an integer "
            "for each row."
        )
    return texts


def sentences_of(verdict: Any) -> list[str]:
    """The sentences of a verdict, and one on the parts of the loss."""
    sentences = str(verdict).splitlines()
    if verdict.line is not None:
        sentences.append(f"Parts: {sentence(verdict.line)}")
    return sentences


def write_cards(folder: Folder, found: Measurement) -> None:
    """Writes a model card for each SAE."""
    lines = {}
    # A skip's lines yield to those of this measurement's kind.
    for _, standing in reversed(found.standings):
        lines.update({line["dictionary"]: line for line in standing})
    for verdict in found.verdicts:
        name = verdict.dictionary
        card = pages.model_card(
            name=name,
            line=lines[name],
            sentences=sentences_of(verdict),
            scored=found.scored(),
        )
        folder.write(f"{name.replace('/', '_')}.model_card.md", card.encode())


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
    first = rows[0]
    verdicts = measure.verdict([*rows, *_earlier(rows, stored, common["l0"])])
    read = f" read from {first['inputs'][:6]}" if "inputs" in first else ""
    title = (
        f"{first['num_scored']:,} rows of {first['activations'][:6]}{read}, seed {first['seed']}, "
        f"L0 {verdicts[0].common['l0']:.3g}"
    )
    groups = []
    has_skip = "skip" in common
    # A skip explains without atoms.
    for skip in (has_skip, not has_skip):
        alike = [each for each in verdicts if ("skip" in each.common) == skip]
        if alike:
            ending = ", with a skip" if skip else ""
            groups.append((title + ending, measure.standings(in_order(alike))))
    return groups


def _earlier(rows: Sequence[Row], stored: Sequence[Row], l0: float) -> list[Row]:
    """The stored rows of other SAEs, scored on the same rows at this L0."""
    models = {row["learner"].get("model") for row in rows}
    names = {row["dictionary"] for row in rows}
    comparable = [
        row | {"model": row["learner"].get("model")}
        for row in stored
        if _is_comparable(row, rows[0], l0)
    ]
    earlier = []
    for (model,), group in grouped(comparable, ("model",)).items():
        best = at(group, BEST, "common")
        # Controls have no model, and what a killed run left may lack the best codes.
        if (
            model is None
            or model in models
            or best is None
            or not _near(best["l0"], l0)
        ):
            continue
        name = group[0]["dictionary"]
        if name in names:
            name = f"{name} ({model[:4]})"
        names.add(name)
        earlier += [row | {"dictionary": name} for row in group]
    return earlier


def _is_comparable(row: Row, first: Row, l0: float) -> bool:
    """True for a row that is scored on the rows of the first, at this L0 if at the common one."""
    if row.get("fvu") is None or any(
        row.get(name) != first.get(name) for name in SCORED.split()
    ):
        return False
    # Runs at several L0s may have measured it.
    return row.get("level") != "common" or _near(row["l0"], l0)


def _near(l0: float, level: float) -> bool:
    return abs(l0 - level) <= ALIKE * level


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)

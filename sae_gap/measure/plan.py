"""One's own SAEs, dictionaries and controls as studies, in stages on one store.

The encoders' own codes come first, since their L0 sets the levels of all other codes: each
dictionary at the L0 of its own encoder, and all at common ones.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sae_gap import catalogue
from sae_gap.analysis.parts import ALIKE
from sae_gap.core import check_choice, check_number, check_sequence, check_type
from sae_gap.data import TENTH, Activations, HeldOut
from sae_gap.encoders import DENSEST, Lasso, Own
from sae_gap.learners import Given, Held, Learner
from sae_gap.measure import (
    OF_ENCODERS,
    Stages,
    check_codes,
    learners_of,
    learns,
    methods_of,
    stem,
)
from sae_gap.metrics import Inferred, Metric, atom_statistics, gap
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store
from sae_gap.study import Method

# The former name of `measure`, which stays: the keys of rows include it.
STUDY = "measure_sae"
# Default control dictionaries, the best first.
CONTROLS = ("online_dl", "samples", "random")
# Controls that learn nothing of rows but their mean.
UNLEARNED = frozenset({"random"})
# Codes measured for each dictionary at each level.
CODES = ("lasso", "lasso_refit", "screened")
# Weights of the curve, as multiples of the middle one.
SPREAD = (2.0, 1.4, 0.7)
# Mean L0 for a dictionary without an encoder, as a share of the dimensions.
USUAL = 1 / 12
# Fewer rows say nothing of the rest.
FEWEST = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan of what to measure, and how.

    Args:
      saes: SAEs and dictionaries. The first sets the width of the controls, and the first whose
        encoder is not dead sets the L0 at which dictionaries are compared.
      source: the rows, which of them are scored, and their documents; activations score a tenth of
        the documents if there are controls or codes that learn, and else all.
      l0: mean L0 of the gap and of the comparison of dictionaries; None takes the encoder's own.
      controls: names of control dictionaries: learners of the suite, or encoders of its SAEs.
      codes: further codes, by their names; see `sae_gap.measure.methods`.
    """

    saes: Sequence[SAE]
    source: HeldOut
    l0: float | None = None
    controls: Sequence[str] = ()
    codes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.source, Activations):
            learning = {*self.controls} - UNLEARNED or learns(self.codes)
            held = TENTH if learning else self.source
            object.__setattr__(self, "source", HeldOut(self.source, held_out=held))

    def check(self) -> None:
        """Raises a ValueError or a TypeError for faults that would otherwise show only after
        minutes, or as wrong figures.
        """
        check_type(
            "source",
            self.source,
            HeldOut,
            "open activations by sae_gap.open_activations",
        )
        check_sequence(
            "saes", self.saes, SAE, "give some that sae_gap.load_sae returned"
        )
        if self.l0 is not None:
            check_number("l0", self.l0, above=0)
        for word in ("codes", "controls"):
            check_type(word, getattr(self, word), (list, tuple), "give a list of names")
        names = [*(sae.name for sae in self.saes), *self.controls]
        for name in {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two of the SAEs, dictionaries and controls are called {name!r}; give each a name "
                "of its own."
            )
        if (rows := len(self.source.scored)) < FEWEST:
            raise ValueError(
                f"{rows} held-out activations are too few to judge by; give some hundreds."
            )
        densest = DENSEST * self.source.input_dim
        if self.l0 is not None and self.l0 > densest:
            raise ValueError(
                f"a mean L0 of {self.l0:g} is more than a quarter of the dimensions, where codes "
                f"are no longer sparse; ask for at most {densest:g}."
            )
        check_codes(self.codes, names)
        for name in self.controls:
            check_choice(
                "a control", name, {**catalogue.learners(), **catalogue.saes()}
            )


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
      differs. Rows of the curve have `times`, the multiple of the weight of its middle, and those
      of a transcoder with a skip `skip`.

    Raises:
      ValueError: activations cannot be read, or something does not fit; the message says how to
        mend it.
    """
    plan.check()
    learners = _learners(plan)
    stages = Stages(STUDY, store, show_progress)
    own_codes = [
        method
        for learner in learners.values()
        for method in methods_of(learner, ("own", "own_refit"), 1.0)
    ]
    own = own_l0s(stages.run(plan.source, own_codes, [COST]), plan)
    common = common_l0(plan, learners, own)
    agreement = atom_statistics.agreement_with(learners[plan.saes[0].name])
    metrics = gap.PARTS, atom_statistics.METRIC, agreement
    stages.run(plan.source, _best_codes(plan, learners, own, common), metrics)
    train = dataclasses.replace(plan.source, width=plan.saes[0].num_latents)
    stages.run(train, _controls(plan, train, common), metrics)
    order = [*learners, *plan.controls]
    return sorted(stages.rows, key=lambda row: order.index(row["dictionary"]))


def own_l0s(rows: Sequence[Row], plan: Plan) -> dict[str, float]:
    """The L0 of each encoder that is not dead, as far as codes of that L0 are sparse."""
    densest = DENSEST * plan.source.input_dim
    return {
        row["dictionary"]: min(row["l0"], densest)
        for row in rows
        if row["codes"] == "own" and not row["dead"]
    }


def common_l0(
    plan: Plan, learners: Mapping[str, Learner], own: Mapping[str, float]
) -> float:
    """The L0 of all dictionaries: the plan's, else that of the first, unless it is dead."""
    usual = USUAL * plan.source.input_dim
    if plan.l0 is not None:
        return plan.l0
    for name, learner in learners.items():
        if learner.encode is None:
            break
        # A dead encoder's L0 is no level at which to compare dictionaries.
        if name in own:
            return own[name] or usual
    return usual


def levels_of(common: float, own: float | None = None) -> dict[str, float]:
    """The L0s of a dictionary's codes by the names of levels, of which like ones are one."""
    if own is None:
        return {"common": common}
    if abs(common - own) <= ALIKE * common:
        # One level stands for both; verdicts allow for the difference.
        return {"own": own}
    return {"common": common, "own": own}


def _learners(plan: Plan) -> dict[str, Given]:
    """The learners of the SAEs; a function is identified by its codes on the rows scored."""
    held = plan.source.task().id
    return {
        sae.name: dataclasses.replace(sae.given, held=Held(sae.model, held))
        for sae in plan.saes
    }


def _best_codes(
    plan: Plan,
    learners: Mapping[str, Learner],
    own: Mapping[str, float],
    common: float,
) -> Iterator[Method]:
    """The codes of each SAE's dictionary at its own L0 and at the common one."""
    for name, learner in learners.items():
        yield from _at_levels(plan, learner, levels_of(common, own.get(name)))


def _controls(plan: Plan, train: HeldOut, common: float) -> Iterator[Method]:
    """The codes of the control dictionaries at the common L0."""
    learners = learners_of(plan.saes, plan.controls, common, train.input_dim)
    row = {"learned_from": train.num_train}
    for name in plan.controls:
        learner, options = learners[name]
        yield from _at_levels(plan, learner, levels_of(common), row, **options)


def _at_levels(
    plan: Plan,
    learner: Learner,
    levels: Mapping[str, float],
    row: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> Iterator[Method]:
    """The codes of a dictionary at each level, with columns and options of `methods_of`, and the
    curve: about the common level if the plan asks for that L0, else about its own.
    """
    skip = {"skip": True} if getattr(learner.ready, "skip", None) is not None else {}
    for level, l0 in levels.items():
        yield from methods_of(
            learner,
            _names_at(plan, level),
            l0,
            row={"level": level, **skip, **row},
            **options,
        )
    is_common = "common" in levels and (plan.l0 or "own" not in levels)
    middle = "common" if is_common else "own"
    nonneg = not options.get("signed", learner.signed)
    whole = Lasso(l0=levels[middle], nonneg=nonneg)
    for times in SPREAD:
        options["lasso"] = _always(Lasso(nonneg=nonneg, of=whole, times=times))
        yield from methods_of(
            learner,
            ["lasso", "lasso_refit"],
            1,
            row={"level": middle, "times": times, **row},
            **options,
        )


def _always(lasso: Lasso) -> Callable[[float], Lasso]:
    return lambda l0: lasso


def _names_at(plan: Plan, level: str) -> list[str]:
    """The names of the codes at a level, each once; own codes are measured before."""
    names = [*CODES]
    if level == "own":
        names += OF_ENCODERS
    names += plan.codes
    # The MLP itself predicts its output, and a pursuit of that is one of the target.
    left = ("own", "predicted") if plan.source.activations.of_mlp else ("own",)
    return [name for name in dict.fromkeys(names) if stem(name) not in left]


def _cost(inferred: Inferred) -> dict[str, float]:
    """`cost`, the million multiply-adds of an encoder's products for a row."""
    model = inferred.model
    encoder = inferred.encoder
    if not isinstance(encoder, Own):
        return {}
    flops = encoder.flops(model.num_inputs, model.decoder.shape[1])
    if not flops:
        return {}
    skip = getattr(model, "skip", None)
    skipped = 0 if skip is None else skip.size
    return {"cost": (flops / 2 + skipped) / 1e6}


COST = Metric("encoder_products", _cost, everywhere=False)

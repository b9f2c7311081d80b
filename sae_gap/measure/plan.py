"""One's own SAEs, dictionaries and controls as studies, in stages on one store.

The encoders' own codes come first, since their L0 sets the levels of all other codes: each
dictionary at the L0 of its own encoder, and all at common ones.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

from sae_gap import catalogue
from sae_gap.analysis import BEST, best_at, placed
from sae_gap.core import (
    Whitening,
    check_choice,
    check_number,
    check_sequence,
    check_type,
)
from sae_gap.data import TENTH, Activations, HeldOut, Source
from sae_gap.encoders import DENSEST, Lasso, Own
from sae_gap.learners import Held, Learner
from sae_gap.measure import (
    OF_ENCODERS,
    check_codes,
    finite,
    learners_of,
    learns,
    methods_of,
    of_encoders,
    recipe,
    stem,
    study_of,
)
from sae_gap.metrics import (
    Inferred,
    Metric,
    atom_statistics,
    cost_at,
    gap,
    nats,
    processor_time,
)
from sae_gap.runtime import progress
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store
from sae_gap.study import Method, runner

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
# Measure L0s that differ by no more than this share only once.
ALIKE = 0.01
# Fewer rows say nothing of the rest.
FEWEST = 10
# Largest L0 of a full pursuit: its time grows with the square, and would exceed all else.
MOST_PURSUED = 64
# Names of the studies in nats, and of their costs.
NATS = "downstream"
COSTS = "encoder_cost"
# Codes whose cost is measured, by their kinds: screens with their breadths, iterations of FISTA.
_SCREENS = ("1x1", "1x2", "1x4", "1x16", "2x1", "2x2", "2x4", "3x2")
KINDS = {
    "own": ("own", "own_refit"),
    "screened_pursuit": [f"screened_pursuit_{sizes}" for sizes in _SCREENS],
    "batch_pursuit": [f"batch_pursuit_{sizes}" for sizes in _SCREENS],
    "omp": ("omp", "omp_pruned"),
    "fista": [f"fista_{count}" for count in (1, 2, 5, 10, 20, 50)],
    "lasso": ("lasso", "lasso_refit", "lasso_pruned"),
}

# A source, its metrics, and the methods that all earlier rows ask for.
Stage = tuple[Source, Sequence[Metric], Callable[[list[Row]], Iterable[Method]]]


def in_stages(
    name: str,
    store: Store,
    stages: Iterable[Stage],
    *,
    shown: bool = True,
    **options: Any,
) -> list[Row]:
    """Runs studies of activations one after the other on one store.

    Args:
      name: of all studies.
      store: where rows go.
      stages: the studies.
      shown: whether to show a line of progress.
      **options: of all studies.

    Returns:
      The rows of all studies whose codes are finite.
    """
    rows: list[Row] = []
    for source, metrics, wanted in stages:
        # Dictionaries of one L0 share the codes of another.
        methods = {
            (each.learner, each.encoder, *each.row.items()): each
            for each in wanted(rows)
        }
        if methods:
            study = study_of(name, [source], [*methods.values()], *metrics, **options)
            try:
                rows += finite(runner.run(study, store, show_progress=shown))
            except progress.UnfinishedError as left:
                # Some codes of a dictionary do not tell which are its best.
                rows += finite(left.rows)
                short = left.dictionaries
                left.rows = [row for row in rows if row["dictionary"] not in short]
                raise
    return rows


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

    def __post_init__(self):
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
    source = plan.source
    saes = plan.saes
    dim = source.input_dim
    held = source.task().id
    # A function is identified by its codes on the rows that are scored.
    givens = {
        sae.name: dataclasses.replace(sae.given, held=Held(sae.model, held))
        for sae in saes
    }
    agreed = atom_statistics.agreement_with(givens[saes[0].name])
    every = gap.PARTS, atom_statistics.METRIC, agreed
    train = dataclasses.replace(source, width=saes[0].num_latents)

    def levels_of(rows):
        """The L0 of each encoder that is not dead, and that of all dictionaries."""
        own = {
            row["dictionary"]: min(row["l0"], DENSEST * dim)
            for row in rows
            if row["codes"] == "own" and not row["dead"]
        }
        # A dead encoder's L0 is no level at which to compare dictionaries.
        able = (
            name for name, each in givens.items() if name in own or each.encode is None
        )
        return own, plan.l0 or own.get(next(able, "")) or USUAL * dim

    def encoded(_):
        return chain(
            *(methods_of(each, ("own", "own_refit"), 1.0) for each in givens.values())
        )

    def given(rows):
        own, common = levels_of(rows)
        for name, learner in givens.items():
            at = {"own": own[name]} if name in own else {}
            yield from _methods(plan, learner, {"common": common} | at)

    def controlled(rows):
        common = levels_of(rows)[1]
        row = {"learned_from": train.num_train}
        learners = learners_of(saes, plan.controls, common, dim)
        for learner, about in (learners[name] for name in plan.controls):
            yield from _methods(plan, learner, {"common": common}, row, **about)

    stages = (
        (source, [COST], encoded),
        (source, every, given),
        (train, every, controlled),
    )
    rows = in_stages(STUDY, store, stages, shown=show_progress)
    order = [*givens, *plan.controls]
    return sorted(rows, key=lambda row: order.index(row["dictionary"]))


def put_back(
    source: Any,
    saes: Sequence[SAE],
    store: Store,
    l0: Sequence[float],
    codes: Sequence[str],
    controls: Sequence[str] = (),
) -> list[Row]:
    """Measures in nats what reconstructions cost a network: at the L0 of each encoder, and of all
    dictionaries at common ones.

    Own codes set the L0 at which each encoder is split, and codes at the common L0s find the best
    dictionary.

    Args:
      source: rows of a network.
      saes: SAEs and dictionaries.
      store: where rows go.
      l0: mean L0s at which dictionaries are compared.
      codes: names of codes.
      controls: names of control dictionaries, which learn for the middle of these L0s.

    Returns:
      A row for each dictionary, codes and level; those of encoders also have `near`, the common L0
      closest to theirs.
    """
    middle = l0[len(l0) // 2]
    densest = DENSEST * source.input_dim
    learners = learners_of(saes, controls, middle, source.input_dim)
    check_codes(codes, learners)
    codes = in_nats(codes, saes)
    proposing = [name for name in codes if of_encoders(name)]
    own = [name for name in codes if stem(name) == "own"]
    levelled = [name for name in codes if name not in (*own, *proposing)]
    splitting = [
        name for name in levelled if name.rpartition(":")[2] in (*BEST, "lasso")
    ]

    def at(names, level, *dictionaries):
        kept = [each for each in names if level <= MOST_PURSUED or stem(each) != "omp"]
        for learner, about in (learners[name] for name in dictionaries or learners):
            yield from methods_of(learner, kept, level, **about)

    def common(rows):
        places = {
            row["dictionary"]: placed(row["l0"], l0)
            for row in rows
            if row["codes"] == "own"
        }
        for row in rows:
            row.update(places.get(row["dictionary"], {}))
        bare = [
            name for name, (learner, _) in learners.items() if learner.encode is None
        ]
        alone = (at(proposing, middle, name) for name in bare)
        return chain(*(at(levelled, level) for level in l0), *alone)

    def split(rows):
        for row in rows:
            # Do not split denser codes, which are not sparse.
            if row["codes"] != "own" or row["dead"] or row["level"] > densest:
                continue
            name = row["dictionary"]
            level = row["level"]
            yield from at(proposing, level, name)
            if level not in l0:
                near = best_at(rows, row["near"]) or row
                yield from at(splitting, level, name, near["dictionary"])

    wanted = (lambda _: at(own, middle), common, split)
    return in_stages(NATS, store, [(source, [nats.METRIC], each) for each in wanted])


def in_nats(codes: Sequence[str], saes: Sequence[SAE]) -> list[str]:
    """The codes, but for those by nats if an SAE has units in which errors cost otherwise."""
    units = [sae.normalisation for sae in saes]
    other = any(isinstance(each, Whitening) or each.per_sample for each in units)
    return [name for name in codes if not (other and stem(name) == "weighted")]


def priced(
    source: Source,
    sae: SAE,
    store: Store,
    k: int,
    kinds: Sequence[str],
    names: Sequence[str] = (),
) -> list[Row]:
    """Measures what ways to code on a dictionary cost and save in nats.

    Args:
      source: rows of a network.
      sae: the SAE or dictionary.
      store: where rows go.
      k: mean L0 of all codes but those of encoders.
      kinds: some of `KINDS`.
      names: further codes.

    Returns:
      A row for each way, with the λ at which the lasso has an L0 of k.
    """
    learner = sae.given
    nonneg = not sae.signed
    twice = min(2 * k, sae.num_latents)

    def weights(_):
        for l0 in (k, twice):
            yield Method(
                "weight", "", learner, Lasso(l0=l0, nonneg=nonneg), {"level": l0}
            )

    found = in_stages(COSTS, store, [(source, (), weights)], metrics=())
    lams = {row["level"]: row["lam"] for row in found}
    stage = (
        source,
        (nats.METRIC, cost_at(lams[k], k), processor_time()),
        lambda _: ways(learner, k, lams, kinds, names),
    )
    rows = in_stages(COSTS, store, [stage], calibrate_on="train")
    return [row | {"lam": lams[k]} for row in rows]


def ways(
    learner: Learner,
    k: int,
    lams: Mapping[float, float],
    kinds: Sequence[str],
    names: Sequence[str] = (),
) -> Iterator[Method]:
    """Ways of some kinds to code on a dictionary with k atoms a sample, and further codes by their
    names, with the lasso's λ at the L0s that need one.
    """

    def lasso(l0):
        return Lasso(lams[l0], nonneg=not learner.signed)

    every = [*chain(*(KINDS[kind] for kind in kinds)), *names]
    for name in dict.fromkeys(every):
        kind, sizes = recipe(name)
        row = dict.fromkeys(("screens", "breadth", "iterations")) | sizes
        family = name.rpartition(":")[2] if name in names else kind
        yield from methods_of(learner, [name], k, family=family, lasso=lasso, row=row)


def _cost(inferred: Inferred) -> dict[str, float]:
    """`cost`, the million multiply-adds of an encoder's products for a row."""
    model = inferred.model
    encoder = inferred.encoder
    flops = isinstance(encoder, Own) and encoder.flops(
        model.num_inputs, model.decoder.shape[1]
    )
    skip = getattr(model, "skip", None)
    return (
        {"cost": (flops / 2 + (0 if skip is None else skip.size)) / 1e6}
        if flops
        else {}
    )


COST = Metric("encoder_products", _cost, everywhere=False)


def _methods(
    plan: Plan,
    learner: Learner,
    levels: dict[str, float],
    row: Mapping[str, Any] = MappingProxyType({}),
    **about: Any,
) -> Iterator[Method]:
    """The codes of a dictionary at each level, and the curve about one of them, with further
    columns and options of `methods_of`.
    """
    nonneg = not about.get("signed", learner.signed)
    if abs(levels["common"] - levels.get("own", 0)) <= ALIKE * levels["common"]:
        # One level stands for both; verdicts allow for the difference.
        del levels["common"]
    skip = {"skip": True} if getattr(learner.ready, "skip", None) is not None else {}
    # The MLP itself predicts its output, and a pursuit of that is one of the target.
    left = ("own", "predicted") if plan.source.activations.of_mlp else ("own",)
    for level, l0 in levels.items():
        names = (*CODES, *(OF_ENCODERS if level == "own" else ()), *plan.codes)
        asked = [name for name in dict.fromkeys(names) if stem(name) not in left]
        yield from methods_of(
            learner, asked, l0, row={"level": level, **skip, **row}, **about
        )
    middle = (
        "common" if "common" in levels and (plan.l0 or "own" not in levels) else "own"
    )
    whole = Lasso(l0=levels[middle], nonneg=nonneg)
    for times in SPREAD:
        at = {"level": middle, "times": times, **row}
        lasso = Lasso(nonneg=nonneg, of=whole, times=times)
        fixed = functools.partial(lambda lasso, _: lasso, lasso)
        yield from methods_of(
            learner, ("lasso", "lasso_refit"), 1, lasso=fixed, row=at, **about
        )

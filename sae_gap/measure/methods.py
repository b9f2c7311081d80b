"""Codes by their names: the one table of encoders.

Studies of real models cross them with dictionaries.

  own          the model's own encoder
  lasso        the certified lasso, at the λ that gives the mean L0
  omp          orthogonal matching pursuit with as many atoms
  screened     a screened pursuit of twice as many, pruned to that L0 by one threshold
  proposed     the same among the latents that the own encoder proposes
  weighted     the screened pursuit in the norm of what an error costs in nats
  thresholded  thresholding pursuit from the lasso
  predicted    the screened pursuit of what a network predicts from the input of a transcoder
  retrained    an affine map and TopK, trained on the dictionary as it is
  hidden_1024  the same with a hidden layer of 1,024 beside the map
  learned_steps_2  the same with 2 learned steps
  NAME         any encoder of `sae_gap.encoders` without parameters. Its field `l0` takes the mean
               L0, `k` the nearest whole number, and `lam` the λ at which the lasso has that L0;
               the encoder's own L0 may differ
  NAME_2x4     a pursuit, such as batch_pursuit, of 2 screens of 4 candidates for each atom
  fista_10     10 iterations of the lasso, least squares on the codes above one threshold
  ..._refit    least squares on the support of any of these
  ..._pruned   the same from twice the L0, pruned to it by one threshold

`DICTIONARY:CODES` are codes on that dictionary alone.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from absl import logging

from sae_gap import catalogue
from sae_gap.analysis import TRAINED
from sae_gap.core import Model, Split, Task, check_choice
from sae_gap.data import Source
from sae_gap.encoders import (
    FISTA,
    OMP,
    AtWeight,
    BatchPursuit,
    Encoder,
    InNorm,
    Lasso,
    LearnedSteps,
    OnSupport,
    Own,
    Predicted,
    Pruned,
    ThresholdingPursuit,
)
from sae_gap.learners import Learner, OnlineDictionary, SparseAutoencoder
from sae_gap.learners.online.online_dictionary import VISITS
from sae_gap.metrics import Metric, reconstruction
from sae_gap.saes import SAE
from sae_gap.storage import Row
from sae_gap.study import Method, Scalar, Study

REFIT = "_refit"
PRUNED = "_pruned"
# Endings that set numbers: of screens and candidates, or of iterations.
_NUMBERS = re.compile(
    r"(?P<pursuit>(?:screened|batch)_pursuit)_(?P<screens>\d+)x(?P<breadth>\d+)"
    r"|fista_(?P<iterations>\d+)"
)
# Of encoders that are trained on a dictionary as it is, the passes over the training rows, and the
# rows of a step.
PASSES = 6
BATCH = 512
# Names that are not class names of encoders, and those among them that have no signed codes.
UNSIGNED = ("screened", "proposed", "weighted", "thresholded", "predicted")
CODES = ("own", "lasso", "omp", *UNSIGNED)
# Codes of encoders, measured at their own L0 alone.
OF_ENCODERS = ("proposed", "predicted")
# Learners whose options are those for activations.
DICTIONARIES = ("online_dl", "online_dl_incoherent")
# Endings of transcoders' names, and whether they have a skip.
TRANSCODERS = {"_transcoder": False, "_skip_transcoder": True}
# The ending of SAEs that start from the dictionary of `online_dl`.
FROM = "_from_online_dl"


class LeftOutError(Exception):
    """Codes that a dictionary cannot have; the message says why."""


def refit(encoder: Encoder) -> OnSupport:
    """Least squares on the support of an encoder, over the signs that its codes have."""
    return OnSupport(encoder, 0.0, not encoder.signed, 0.0)


def stem(name: str) -> str:
    """The name of codes without their dictionary and endings."""
    return re.sub(f"({REFIT}|{PRUNED})+$", "", name.rpartition(":")[2])


def of_encoders(name: str) -> bool:
    """True for codes of encoders, which are measured at the own L0 of an encoder alone."""
    return stem(name) in OF_ENCODERS or learns([name])


def learns(names: Iterable[str]) -> bool:
    """True if some of these codes are of encoders that are trained on a dictionary as it is."""
    return any(TRAINED.fullmatch(stem(name)) for name in names)


def trained(name: str, l0: float, learner: Learner) -> SparseAutoencoder:
    """The learner of an encoder with these codes, on the dictionary of another learner.

    Raises:
      LeftOutError: the dictionary cannot have such codes.
    """
    if learner.transcodes or learner.signed:
        raise LeftOutError("such an encoder has the positive codes of an SAE")
    if getattr(learner.ready, "normalisation", None) is not None:
        raise LeftOutError("such an encoder reads activations as they are")
    found: Any = TRAINED.fullmatch(stem(name))
    sizes = {
        "steps": 0,
        **{key: int(size) for key, size in found.groupdict().items() if size},
    }
    return SparseAutoencoder(
        LearnedSteps(max(1, round(l0)), **sizes),
        base=learner,
        num_steps=PASSES,
        batch_size=BATCH,
        learning_rate=None,
        weight_decay=0.0,
        renormalise_every=None,
        schedule="cosine",
        frozen=True,
        standardised=True,
    )


def recipe(name: str) -> tuple[str, dict[str, int]]:
    """The stem of a name, and its numbers: `screens` and `breadth`, or `iterations`."""
    found = _NUMBERS.fullmatch(stem(name))
    if not found:
        return stem(name), {}
    kind, *numbers = found.groupdict().items()
    return kind[1] or "fista", {key: int(value) for key, value in numbers if value}


def check_codes(
    names: Iterable[str], dictionaries: Collection[str] | None = None
) -> None:
    """Refuses unknown names, and encoders whose parameters a dictionary alone cannot give.

    Args:
      names: names of codes.
      dictionaries: names that may stand before a colon; None takes any.

    Raises:
      ValueError: a name is refused; the message says which and why.
    """
    for name in names:
        on = name.rpartition(":")[0]
        name = stem(name)
        if on and dictionaries is not None:
            check_choice("a dictionary of codes", on, dictionaries)
        if name not in CODES and not recipe(name)[1] and not TRAINED.fullmatch(name):
            trained = "retrained", "hidden_1024", "learned_steps_2"
            check_choice(
                "codes", name, dict.fromkeys((*CODES, *trained, *catalogue.encoders()))
            )
            _check_bare(
                name, catalogue.make_encoder(name, sparsity=1, nonneg=True, l0=1.0)
            )


def encoder_at(
    name: str,
    l0: float,
    learner: Learner,
    signed: bool | None,
    lasso: Callable[[float], Lasso] | None,
) -> Encoder:
    """The encoder of a name, for the dictionary of a learner.

    Args:
      name: one of the module's table.
      l0: requested mean L0.
      learner: learner of the dictionary.
      signed: whether codes may be negative; None asks the learner.
      lasso: the lasso at an L0, where its λ is known.

    Raises:
      LeftOutError: the dictionary cannot have such codes.
    """
    own: Any = learner.encode
    nonneg = not (learner.signed if signed is None else signed)
    solved = lasso or (lambda l0: Lasso(l0=l0, nonneg=nonneg))
    if name.endswith(REFIT):
        return refit(encoder_at(name.removesuffix(REFIT), l0, learner, signed, lasso))
    if name.endswith(PRUNED):
        most = 2 * l0
        if learner.ready is not None:
            most = min(most, learner.ready.decoder.shape[1])
        whole = encoder_at(name.removesuffix(PRUNED), most, learner, signed, lasso)
        refitted = whole if isinstance(whole, OnSupport) else refit(whole)
        return Pruned(refitted, l0, nonneg=nonneg)
    kind, sizes = recipe(name)
    if name in ("own", "proposed") and own is None:
        raise LeftOutError("the dictionary has no encoder")
    if (name in UNSIGNED or "screens" in sizes) and not nonneg:
        raise LeftOutError("such a pursuit has no signed codes")
    if name == "predicted" and not learner.transcodes:
        raise LeftOutError("its encoder reads what it explains")
    if name == "proposed" and (
        learner.transcodes
        or not isinstance(own, Own)
        or own.affine(learner.ready) is None  # type: ignore[arg-type]
    ):
        raise LeftOutError("no single affine map decides what its encoder proposes")
    above = max(1, math.ceil(l0))
    nearest = max(1, round(l0))
    if "iterations" in sizes:
        whole = solved(l0)
        few = FISTA(
            whole.lam, l0=whole.l0, nonneg=nonneg, iterations=sizes["iterations"]
        )
        return Pruned(few, l0, "magnitude", nonneg)
    if sizes:
        encoder = catalogue.make_encoder(kind, sparsity=above, l0=float(l0))
        return dataclasses.replace(encoder, **sizes)
    pursuit = BatchPursuit(above, l0=l0)
    made: dict[str, Encoder] = {
        "own": own,
        "lasso": solved(l0),
        "omp": refit(OMP(nearest, nonneg=nonneg)),
        "screened": pursuit,
        "proposed": dataclasses.replace(pursuit, screens=1, proposer=own),
        "weighted": InNorm(pursuit),
        "thresholded": AtWeight(ThresholdingPursuit(), solved(l0)),
        "predicted": Predicted(pursuit),
    }
    if name in made:
        return made[name]
    encoder = catalogue.make_encoder(name, sparsity=nearest, nonneg=nonneg, l0=l0)
    return AtWeight(encoder, solved(l0)) if hasattr(encoder, "lam") else encoder


def methods_of(
    learner: Learner,
    names: Iterable[str],
    l0: float,
    *,
    family: str = "",
    signed: bool | None = None,
    lasso: Callable[[float], Lasso] | None = None,
    row: Mapping[str, Scalar] = MappingProxyType({}),
) -> Iterator[Method]:
    """Yields a method for each of the codes that a learner's dictionary can have; the log says why
    others are left out.

    Args:
      learner: source of the dictionary.
      names: names of codes.
      l0: requested mean L0.
      family: family of the methods; by default the learner's.
      signed: whether codes may be negative; None asks the learner.
      lasso: the lasso at an L0, where its λ is known.
      row: further columns of the rows; `dictionary` is its name, by default the learner's.

    Raises:
      ValueError: a name is unknown or cannot be used; see `check_codes`.
    """
    check_codes(names := [*names])
    for dictionary, _, name in (name.rpartition(":") for name in names):
        if dictionary not in ("", row.get("dictionary", learner.name)):
            continue
        source = learner
        form = name
        try:
            if learns([name]):
                source = trained(name, l0, learner)
                form = name.replace(stem(name), "own")
            encoder = encoder_at(form, l0, source, signed, lasso)
        except LeftOutError as reason:
            # Nobody expects predicted codes of an SAE.
            if name != "predicted":
                logging.info("left out %s of %s: %s", name, learner.name, reason)
            continue
        # Own codes do not depend on the requested L0.
        level: dict[str, Scalar] = {} if name.startswith("own") else {"level": l0}
        yield Method(
            name,
            family or learner.family,
            source,
            encoder,
            {"codes": name, **level, **row},
        )


def study_of(
    name: str,
    sources: Sequence[Source],
    methods: Sequence[Method] | Callable[[Any], Sequence[Method]],
    *metrics: Metric,
    **options: Any,
) -> Study:
    """A study of activations, whose codes are not compared with an optimum at one weight.

    Args:
      name: name of the study.
      sources: sources of activations.
      methods: methods of each source, or a function of one.
      *metrics: further metrics, beside `reconstruction` and those that every study has.
      **options: of `Study`.
    """
    every = (
        *catalogue.default_metrics(),
        reconstruction.METRIC,
        reconstruction.PREDICTABILITY,
        *metrics,
    )
    plain = {"lam": None, "optimum": False, "seconds": False, "metrics": every}
    return Study(name, sources, methods, **plain | options)


def finite(rows: Iterable[Row]) -> list[Row]:
    """The rows whose codes are finite; the log names the others, which have no measurements."""
    found = []
    for row in rows:
        if "diverged" in row:
            logging.warning(
                "left out %s of %s: they are not finite",
                row["codes"],
                row["dictionary"],
            )
        else:
            found.append(row)
    return found


def sae_names() -> list[str]:
    """SAEs by name, transcoders of encoders that read no residuals, and all of them started from
    the dictionary of `online_dl`.
    """
    return [
        name + ending + start
        for start in ("", FROM)
        for ending in ("", *TRANSCODERS)
        for name, encoder in catalogue.saes().items()
        if not ending or encoder.reads_inputs
    ]


def learner_at(
    name: str,
    width: int,
    l0: float,
    input_dim: int,
    visits: float = VISITS,
    **options: Any,
) -> Learner:
    """The learner of a name for activations.

    Args:
      name: `online_dl`, `online_dl_incoherent`, one of `sae_names`, or any learner.
      width: atoms of `online_dl`.
      l0: mean L0 to learn at.
      input_dim: dimension of the activations.
      visits: rows that `online_dl` sees for each latent.
      **options: of SAEs.

    Raises:
      ValueError: there is no such name.
    """
    online = OnlineDictionary.for_activations(width, l0, input_dim, visits=visits)
    if name in DICTIONARIES:
        return dataclasses.replace(online, incoherent=name != online.name)
    about: dict[str, Any] = {"sparsity": round(l0), "input_dim": input_dim}
    if name not in sae_names():
        return catalogue.make_learner(name, **about)
    if name.endswith(FROM):
        about["base"] = online
    encoder = name.removesuffix(FROM)
    make = catalogue.sae_for_activations
    for ending, skip in reversed(TRANSCODERS.items()):
        if encoder.endswith(ending):
            encoder = encoder.removesuffix(ending)
            make = catalogue.transcoder_for_activations
            about["skip"] = skip
    return make(encoder, **about, **options)


def learners_of(
    saes: Sequence[SAE], controls: Iterable[str], l0: float, input_dim: int
) -> dict[str, tuple[Learner, dict[str, Any]]]:
    """The learners of SAEs and of controls for an L0, by name, with options of `methods_of`:
    controls have signed codes if the first SAE does.
    """
    first = saes[0]
    about = {"family": "control", "signed": first.signed}
    found: dict[str, tuple[Learner, dict[str, Any]]] = {
        sae.name: (sae.given, {}) for sae in saes
    }
    for name in () if (*controls,) == ("none",) else controls:
        found[name] = learner_at(name, first.num_latents, l0, input_dim), about
    return found


def _check_bare(name: str, encoder: Encoder) -> None:
    model = Model(jnp.ones((1, 2)), jnp.zeros(1), None, None)

    def infer(rows: Any) -> Any:
        split = Split(rows)
        return encoder.prepared(model, split, Task(split, split, split, width=2))(
            model, rows
        )

    try:
        eqx.filter_eval_shape(infer, jnp.ones((1, 1)))
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        # It runs on the host or needs concrete numbers.
        return
    except (AttributeError, TypeError):
        raise ValueError(
            f"{name} has parameters, which no dictionary alone gives; give an SAE that has it as "
            "--sae, and own as --codes."
        ) from None

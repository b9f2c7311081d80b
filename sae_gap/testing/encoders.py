"""The check of an encoder."""

from contextlib import suppress
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import default_matmul_precision, enable_x64
from jax.tree_util import tree_map
from jaxtyping import Array, Float, PyTree
from numpy import arange
from numpy.random import default_rng

from sae_gap import catalogue
from sae_gap.core import Model, Split, Task
from sae_gap.encoders import Affine, AmortisedEncoder, Encoder, ReLU, encode
from sae_gap.saes import save_sae
from sae_gap.study import finite
from sae_gap.testing import Demand, check_read, close, demand_of

# Sizes that differ, so that an axis is told by its length.
DIM = 7
WIDTH = 11
ROWS = 12
# Rows of a large batch, in chunks of no usual size.
MANY = 12_007
# Signals in another unit, which rounds nothing, and from another origin.
UNIT = 8.0
ORIGIN = 4.0
# The latent whose atom is zero.
DEAD = 3

Signals = Float[Array, "n input_dim"]
Codes = Float[np.ndarray, "n num_latents"]


class _Case(NamedTuple):
    """An encoder, whose parameters were found for the signals, and its codes of them."""

    demand: Demand
    encoder: Any
    model: Model
    signals: Signals
    codes: Codes


@default_matmul_precision("highest")
def check_encoder(encoder: Encoder) -> None:
    """Checks an encoder on 12 signals of 7 dimensions, with 11 atoms of many lengths.

    Args:
      encoder: of a sparsity that 11 latents allow, such as `TopK(3)`.

    Raises:
      AssertionError: its codes are not a function of each row alone, in units of the atoms.
    """
    demand = demand_of(encoder)
    signals, model = _drawn(encoder)
    prepared, model = _prepared(encoder, model, signals)
    case = _Case(demand, prepared, model, signals, _codes(prepared, model, signals))
    _check_codes(case)
    _check_rows(case)
    _check_units(case, encoder)
    _check_double(case)
    dead = _check_dead_atom(case)
    cost = encoder.flops(DIM, WIDTH)
    demand(
        cost is None or (type(cost) is int and cost > 0),
        "must count its `flops` in a positive integer, or give None",
    )
    if isinstance(encoder, AmortisedEncoder):
        _check_training(case, encoder, dead)
    if prepared == encoder and type(encoder) in catalogue.saes().values():
        _check_file(case, dead)


def _drawn(encoder: Encoder) -> tuple[Signals, Model]:
    """Signals, of which the first leaves nothing to code, and a model with trained parameters."""
    rng = default_rng(0)
    atoms = rng.normal(size=(DIM, WIDTH)) * rng.uniform(0.5, 2, WIDTH)
    maker = encoder if isinstance(encoder, AmortisedEncoder) else ReLU()
    # As training moves them.
    parameters = tree_map(
        lambda leaf: leaf + rng.uniform(0, 0.2, leaf.shape),
        maker.parameters(jnp.asarray(atoms), jax.random.key(0)),
    )
    bias = rng.normal(size=DIM)
    signals = rng.normal(size=(ROWS, DIM))
    parts = _floats((atoms, bias, parameters, signals), jnp.float32)
    model = Model(*parts[:3])
    return parts[3].at[0].set(model.bias), model


def _check_codes(case: _Case) -> None:
    demand, encoder, model, signals, codes = case
    demand(
        codes.shape == (ROWS, WIDTH),
        "must give codes (n, num_latents); give each atom one",
    )
    demand(
        finite(codes) and codes.any(),
        "must give finite codes that are not all zero; lower its threshold",
    )
    demand(
        encoder.signed or codes.min() >= 0,
        "gives codes below zero; let `signed` say so",
    )
    demand(
        close(encoder(model, signals), codes),
        "must give the same codes called as by `infer`; let one call the other",
    )


def _check_rows(case: _Case) -> None:
    """Checks that each row is coded by itself."""
    demand, encoder, model, signals, codes = case
    for misshapen in (signals[0], signals[:, 1:]):
        with suppress(ValueError):
            encoder(model, misshapen)
            demand(
                False,
                "must refuse signals of another shape; let `__call__` see them first",
            )
    for rows in (arange(5, 6), arange(MANY) % ROWS):
        demand(
            close(_codes(encoder, model, signals[rows]), codes[rows]),
            "must code a row alike in every batch, of any size; let no row see another",
        )
    others = arange(ROWS) != 2
    for infer in (_codes, encode):
        try:
            spoilt = np.asarray(infer(encoder, model, signals.at[2, 1].set(jnp.nan)))
        except (ValueError, jax.errors.JAXTypeError):
            # A solver refuses such rows at its door, and what runs on the host has no `jit`.
            continue
        demand(
            np.isnan(spoilt[2]).any(),
            "must not lose a NaN of the signals; gate by `above`, or end with `keep_nans`",
        )
        demand(
            close(spoilt[others], codes[others]),
            "must not let a NaN or `jit` change other rows; keep rows apart",
        )


def _check_units(case: _Case, encoder: Encoder) -> None:
    """Checks that the codes do not depend on dimensions of zeros, on the unit and on the origin."""
    wider, deeper = tree_map(_padded, (case.model, case.signals))
    case.demand(
        close(_codes(case.encoder, wider, deeper), case.codes),
        "must not mind dimensions of zeros; count only those with an atom",
    )
    trained = getattr(encoder, "recipe", ReLU.recipe) is not None
    louder = ORIGIN + UNIT * case.signals
    scaled = _in_unit(case.model, trained)
    prepared, scaled = _prepared(_at_unit(encoder), scaled, louder)
    case.demand(
        close(_codes(prepared, scaled, louder), case.codes),
        "must not mind the unit and the origin of signals; subtract the bias, and map the rest by "
        "an `Affine`, or code `on_unit_atoms`",
    )


def _check_double(case: _Case) -> None:
    with enable_x64(True):
        model, signals = _floats((case.model, case.signals), jnp.float64)
        codes = _codes(case.encoder, model, signals)
    case.demand(
        codes.dtype == np.float64,
        "must compute in float64 if asked to; take types from the arrays",
    )
    case.demand(
        close(codes, case.codes),
        "must give the same codes in float64; avoid what rounding decides",
    )


def _check_dead_atom(case: _Case) -> _Case:
    """Checks the codes beside an atom of zeros, and returns them with their model."""
    model = tree_map(_without_latent, case.model)
    codes = _codes(case.encoder, model, case.signals)
    case.demand(
        finite(codes),
        "must give finite codes beside an atom of zeros; see `unit_atoms`",
    )
    case.demand(
        not codes[:, DEAD].any(),
        "must give an atom of zeros no code; set codes to zero where it is",
    )
    return case._replace(model=model, codes=codes)


def _check_training(case: _Case, encoder: AmortisedEncoder, dead: _Case) -> None:
    def loss(model: Model) -> tuple[Array, PyTree]:
        losses, seen = encoder.loss(model, case.signals, 0.1)
        return jnp.sum(losses), seen

    slope, seen = jax.grad(loss, has_aux=True)(dead.model)
    case.demand(
        finite(slope),
        "must have a finite gradient beside an atom of zeros; see `unit_atoms`",
    )
    case.demand(
        tree_map(np.shape, encoder.observe(case.model, seen))
        == tree_map(np.shape, case.model),
        "must keep the shapes of parameters in `observe`; see `parameters`",
    )


def _check_file(case: _Case, dead: _Case) -> None:
    model = replace(dead.model, encode=case.encoder)
    rows = np.asarray(case.signals)
    reconstruction = model.reconstruct(dead.codes, rows)
    with TemporaryDirectory() as folder:
        path = f"{folder}/sae"
        save_sae(model, path)
        check_read(case.demand, path, rows, dead.codes, reconstruction)


def _codes(encoder: Encoder, model: Model, signals: Signals) -> Codes:
    return np.asarray(encoder.infer(model, signals).codes)


def _prepared(
    encoder: Encoder, model: Model, signals: Signals
) -> tuple[Encoder, Model]:
    split = Split(signals)
    if isinstance(encoder, AmortisedEncoder):
        model = encoder.calibrate(model, signals)
    task = Task(split, split, split, width=WIDTH)
    return encoder.prepared(model, split, task), model


def _at_unit(encoder: Encoder) -> Encoder:
    """The encoder with all λ in the other unit."""
    moved: dict[str, Any] = {}
    for name, value in vars(encoder).items():
        if isinstance(value, Encoder):
            moved[name] = _at_unit(value)
        elif name == "lam":
            moved[name] = UNIT * value
    return replace(encoder, **moved)


def _in_unit(model: Model, trained: bool) -> Model:
    """The model whose codes of signals in the other unit are the same. Only what is never trained
    on standardised signals may have maps of signals that are no `Affine`.
    """

    def mapped(part: Any) -> Any:
        if isinstance(part, Affine):
            return Affine(part.weight / UNIT, part.bias)
        return part / UNIT if not trained and DIM in part.shape else part

    parameters = tree_map(
        mapped, model.encoder, is_leaf=lambda part: isinstance(part, Affine)
    )
    return Model(UNIT * model.decoder, ORIGIN + UNIT * model.bias, parameters)


def _floats(tree: Any, dtype: Any) -> Any:
    return tree_map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), tree)


def _padded(leaf: Array) -> Array:
    """An array with two more entries on each axis of the signals' dimensions."""
    if not leaf.ndim:
        return leaf
    return jnp.pad(leaf, [(0, 2 * (size == DIM)) for size in leaf.shape])


def _without_latent(leaf: Array) -> Array:
    for axis, size in enumerate(leaf.shape):
        if size == WIDTH:
            leaf = jnp.moveaxis(jnp.moveaxis(leaf, axis, 0).at[DEAD].set(0), 0, axis)
    return leaf

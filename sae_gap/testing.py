"""Checks that every encoder, learner, metric and file of an SAE passes, for whoever adds one.

    from sae_gap import testing

    testing.check_encoder(SquaredReLU())

A check that fails raises an AssertionError whose sentence names the property and the mend.
"""

import contextlib
import dataclasses
import functools
import json
import re
import tempfile
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap import catalogue
from sae_gap.core import (
    SPLITS,
    AnyPath,
    MethodPart,
    Model,
    Split,
    Task,
    check_type,
    describe,
    looks_of,
)
from sae_gap.data import Setting
from sae_gap.encoders import Affine, AmortisedEncoder, Encoder, Lasso, ReLU, encode
from sae_gap.learners import Given, Held, Learner
from sae_gap.metrics import SCORED, Metric
from sae_gap.saes import load_sae, save_sae
from sae_gap.storage import trees
from sae_gap.study import Inference, Method, blank_model, fit

# Sizes that differ, so that an axis is told by its length.
DIM = 7
WIDTH = 11
ROWS = 12
# Rows of a large batch, in chunks of no usual size.
MANY = 12_007
# Signals in another unit, which rounds nothing, and from another origin.
UNIT = 8.0
ORIGIN = 4.0
# First and last rows of a hundred that a split may have alone: a rank may outlive one loss.
FIRST = ((0, 60), (0, 40))
LAST = ((40, 100), (60, 100))
# The latent whose atom is zero.
DEAD = 3
# Families of learners that start from random numbers.
DRAWN = ("dictionary_learning", "sae", "peer")


@jax.default_matmul_precision("highest")
def check_encoder(encoder: Encoder) -> None:
    """Checks an encoder on 12 signals of 7 dimensions, with 11 atoms of many lengths.

    Args:
      encoder: of a sparsity that 11 latents allow, such as `TopK(3)`.

    Raises:
      AssertionError: its codes are not a function of each row alone, in units of the atoms.
    """
    demand = _part(encoder)
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(DIM, WIDTH)) * rng.uniform(0.5, 2, WIDTH)
    maker = encoder if isinstance(encoder, AmortisedEncoder) else ReLU()
    # As training moves them.
    parameters = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0, 0.2, leaf.shape),
        maker.parameters(jnp.asarray(atoms), jax.random.key(0)),
    )
    parts = atoms, rng.normal(size=DIM), parameters
    parts, y = _floats((parts, rng.normal(size=(ROWS, DIM))), jnp.float32)
    model = Model(*parts)
    # The first signal leaves nothing to code.
    y = y.at[0].set(model.bias)
    prepared, model = _prepared(encoder, model, y)

    codes = _codes(prepared, model, y)
    demand(
        codes.shape == (ROWS, WIDTH),
        "must give codes (n, num_latents); give each atom one",
    )
    demand(
        _finite(codes) and codes.any(),
        "must give finite codes that are not all zero; lower its threshold",
    )
    demand(
        encoder.signed or codes.min() >= 0,
        "gives codes below zero; let `signed` say so",
    )
    demand(
        _close(prepared(model, y), codes),
        "must give the same codes called as by `infer`; let one call the other",
    )
    _check_rows(demand, prepared, model, y, codes)
    wider, deeper = jax.tree.map(_padded, (model, y))
    demand(
        _close(_codes(prepared, wider, deeper), codes),
        "must not mind dimensions of zeros; count only those with an atom",
    )
    trained = getattr(encoder, "recipe", ReLU.recipe) is not None
    louder = ORIGIN + UNIT * y
    found, scaled = _prepared(_at_unit(encoder), _in_unit(model, trained), louder)
    demand(
        _close(_codes(found, scaled, louder), codes),
        "must not mind the unit and the origin of signals; subtract the bias, and map the rest by "
        "an `Affine`, or code `on_unit_atoms`",
    )
    with jax.enable_x64(True):
        found = _codes(prepared, *_floats((model, y), jnp.float64))
    demand(
        found.dtype == np.float64,
        "must compute in float64 if asked to; take types from the arrays",
    )
    demand(
        _close(found, codes),
        "must give the same codes in float64; avoid what rounding decides",
    )
    dead = jax.tree.map(_without_latent, model)
    found = _codes(prepared, dead, y)
    demand(
        _finite(found),
        "must give finite codes beside an atom of zeros; see `unit_atoms`",
    )
    demand(
        not found[:, DEAD].any(),
        "must give an atom of zeros no code; set codes to zero where it is",
    )
    cost = encoder.flops(DIM, WIDTH)
    demand(
        cost is None or (type(cost) is int and cost > 0),
        "must count its `flops` in a positive integer, or give None",
    )
    if isinstance(encoder, AmortisedEncoder):
        slope, seen = jax.grad(lambda model: _loss(encoder, model, y), has_aux=True)(
            dead
        )
        demand(
            _finite(slope),
            "must have a finite gradient beside an atom of zeros; see `unit_atoms`",
        )
        after = encoder.observe(model, seen)
        demand(
            jax.tree.map(np.shape, after) == jax.tree.map(np.shape, model),
            "must keep the shapes of parameters in `observe`; see `parameters`",
        )
    if prepared == encoder and type(encoder) in catalogue.saes().values():
        saved = dataclasses.replace(dead, encode=encoder)
        rows = np.asarray(y)
        with tempfile.TemporaryDirectory() as folder:
            save_sae(saved, f"{folder}/sae")
            _check_sae(
                demand, f"{folder}/sae", rows, found, saved.reconstruct(found, rows)
            )


def _check_rows(demand, encoder, model, y, codes):
    """Checks that each row is coded by itself."""
    for rows in (y[0], y[:, 1:]):
        with contextlib.suppress(ValueError):
            encoder(model, rows)
            demand(
                False,
                "must refuse signals of another shape; let `__call__` see them first",
            )
    for rows in (np.arange(5, 6), np.arange(6, ROWS), np.arange(MANY) % ROWS):
        demand(
            _close(_codes(encoder, model, y[rows]), codes[rows]),
            "must code a row alike in every batch, of any size; let no row see another",
        )
    others = np.arange(ROWS) != 2
    for infer in (_codes, encode):
        try:
            found = np.asarray(infer(encoder, model, y.at[2, 1].set(jnp.nan)))
        except (ValueError, jax.errors.JAXTypeError):
            # A solver refuses such rows at its door, and what runs on the host has no `jit`.
            continue
        demand(
            np.isnan(found[2]).any(),
            "must not lose a NaN of the signals; gate by `above`, or end with `keep_nans`",
        )
        demand(
            _close(found[others], codes[others]),
            "must not let a NaN or `jit` change other rows; keep rows apart",
        )


def check_learner(learner: Learner) -> None:
    """Checks a learner on two small tasks of the paper's model.

    Raises:
      AssertionError: what it learns depends on more than its key and the data that it may see, or
        cannot be kept.
    """
    demand = _part(learner)
    task, other = (_drawn(learner, seed=seed) for seed in (0, 1))
    fits = fit(learner, [task, other, task], [0, 0, 1])
    model, unlike, rekeyed = (fitted.end.model for fitted in fits)
    demand(
        _finite(model), "must learn finite numbers; divide by nothing that may be zero"
    )
    leaves = jax.tree.leaves(model)
    floats = {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}
    demand(
        floats == {task.train.signals.dtype},
        "must learn numbers of the type of its data; take the type from them",
    )
    # Baselines may have fewer, and those of a base may be pruned.
    whole = model.dictionary is None or model.dictionary.shape[1] == task.width
    demand(
        whole or learner.family == "baseline" or learner.base is not None,
        "must learn as many atoms as it is asked for; see `num_latents`",
    )
    noise = Split(other.train.signals)
    blind = Task(Split(task.train.signals), noise, noise, width=20)
    lacks = learner.needs(blind)
    demand(
        isinstance(lacks, str | None), "must say by `needs` in words what a task lacks"
    )
    if lacks is not None:
        blind = dataclasses.replace(task, id=noise, ood=noise, seed=9)
    alone = fit(learner, [blind], [0])[0].end.model
    demand(
        _same(alone, model),
        "must learn the same bits from a key and training data, whatever is scored or fitted "
        "beside them; draw by the key, and select no other split",
    )
    demand(
        learner.family == "baseline" or not _same(unlike, model),
        "must learn from its data; `select` them",
    )
    drawn = learner.base is None and learner.family in DRAWN
    demand(
        not drawn or not _same(rekeyed, model),
        "must draw by its key, since seeds tell fits apart; or say by `family` that it draws none",
    )
    base = None if learner.base is None else fit(learner.base, [task], [0])[0].end.model
    like = blank_model(learner, task, jax.random.key(0), base)
    stored = trees.load(trees.dump(model, {}), like)
    demand(
        _same(stored, model),
        "must come back from a file; let the task decide the shapes",
    )
    wide = fit(learner, [_drawn(learner, padded_dim=15)], [0])[0].end.model
    for part in (wide.bias, wide.dictionary):
        demand(
            part is None or not np.any(part[12:]),
            "must leave dimensions of zeros at zero; see `live_dims`",
        )


def _drawn(learner, **options):
    """A small task, with inputs that tell all of it if a transcoder is to learn."""
    task = Setting(20, 3, 200, **options).task()
    if not learner.transcodes:
        return task
    signals = task.train.signals
    codes = task.train.codes
    train = Split(signals, codes, inputs=2 * signals[:, ::-1] + 1)
    return dataclasses.replace(task, train=train)


def check_metric(metric: Metric) -> None:
    """Checks a metric on codes of 11 atoms, of which one is zero and not all are used.

    Raises:
      AssertionError: its numbers depend on how codes are held, on padding, on the order of latents
        or on the rows of another split, it changes codes, or it says what it cannot tell.
    """
    check_type("the metric", metric, Metric, "give the METRIC of a module")
    demand = functools.partial(_demand, metric.name)
    for protocol, used in (("strict", True), ("paper", True), ("strict", False)):
        inferred = functools.partial(_inferred, protocol, used)
        given = inferred()
        found = metric(given)
        demand(
            all(
                np.array_equal(given.codes[name], z)
                for name, z in inferred().codes.items()
            ),
            "must not change codes in place; copy them first",
        )
        demand(_finite(found), "must give finite numbers, or leave a column out")
        demand(
            not _moved(found, metric(inferred(scipy.sparse.csr_array))),
            "must say the same of sparse codes; read `dense_chunks`",
        )
        # Activations of a network are never padded.
        demand(
            not (metric.everywhere and _moved(found, metric(inferred(padded=15)))),
            "must not count dimensions of zeros; leave out `task.padding` of them",
        )
        # Where none is used they tie.
        demand(
            not (used and _moved(found, metric(inferred(roll=4)))),
            "must not mind the order of latents; choose none by its place",
        )
        for missing in ("truth", "dictionary", "optimum"):
            words = f"must leave out what it cannot tell without {missing}; see `needs`"
            try:
                left = metric(inferred(missing=missing)).keys()
            except Exception as error:
                raise AssertionError(f"{metric.name} {words}.") from error
            demand(left <= found.keys(), words)
    _check_reads(demand, metric)


def _check_reads(demand, metric):
    """Checks which rows a metric scores, and that it counts the bias."""
    numbers = functools.cache(
        lambda **other: metric(_inferred("strict", True, **other))
    )

    unbiased = numbers(bias=0.0)
    demand(
        _moved(unbiased, numbers(bias=0.0, origin=0.0)) <= _moved(unbiased, numbers()),
        "must count the decoder's bias where it reads signals; see `Model.reconstruct`",
    )

    def by_loss(kept):
        return {
            name: _moved(numbers(), numbers(few=name, kept=kept)) for name in SPLITS
        }

    first, last = (
        set.union(*(columns for kept in ends for columns in by_loss(kept).values()))
        for ends in (FIRST, LAST)
    )
    demand(
        first == last, "must score all rows of a split, not the first or the last alone"
    )
    by = by_loss(FIRST[0])
    for column in set.union(*by.values()):
        own = [name for name in SCORED if column.endswith(f"_{name}")] or SCORED
        demand(
            any(column in by[name] for name in own)
            and (own != ["id"] or column not in by["ood"]),
            f"must score in {column} the rows of its split, not of another; see `by_split`",
        )


def check_sae_format(
    path: AnyPath,
    activations: Float[ArrayLike, "..."],
    codes: Float[ArrayLike, "n num_latents"],
    reconstruction: Float[ArrayLike, "n input_dim"],
) -> None:
    """Checks that a file is read as the SAE that its library makes of it.

    Args:
      path: as for `load_sae`.
      activations: as the library's `encode` takes them; a transcoder's inputs.
      codes: the library's.
      reconstruction: the library's.

    Raises:
      AssertionError: `load_sae` gives other codes, or another reconstruction.
    """
    _check_sae(
        functools.partial(_demand, path), path, activations, codes, reconstruction
    )


def _check_sae(demand, path, x, codes, reconstruction):
    sae = load_sae(path)
    rows = np.reshape(x, (len(x), -1))
    close = functools.partial(_close, tol=1e-5)
    found = np.asarray(sae.encode(x))
    demand(
        np.array_equal(found != 0, codes != 0),
        "must have the same latents on; compare k and thresholds",
    )
    demand(
        close(found, codes),
        "must have the same codes; compare weights, biases and `centred`",
    )
    demand(
        sae.signed or found.min() >= 0,
        "has codes below zero; let its encoder be `signed`",
    )
    for held in (found, scipy.sparse.csr_array(found)):
        demand(
            close(sae.decode(held, x), reconstruction),
            "must decode them alike; compare W_dec, b_dec and the normalisation",
        )
    # What the codes of both kinds should add up to, of reconstructions.
    sums = sae.target(reconstruction, x) if sae.transcodes else sae.target(x)
    if not sae.transcodes:
        undone = sae.normalisation.undo(sums + sae.bias, rows)
        demand(
            close(undone, rows), "must undo its normalisation; see `Normalisation.undo`"
        )
        sums = codes * np.asarray(sae.lengths) @ np.asarray(sae.unit_dictionary).T
    demand(
        close(sums, found @ sae.model.decoder.T),
        "must have a target and unit atoms of its codes; see `SAE.target` and `lengths`",
    )


def _part(part):
    """What raises, of a part whose name, label and colour do for rows and figures."""
    check_type(
        "the part", part, MethodPart, "give an instance of an encoder or a learner"
    )
    demand = functools.partial(_demand, type(part).__name__)
    for name, look in looks_of(type(part)).items():
        demand(
            re.fullmatch("[a-z0-9_]+", name),
            "must have a name of a-z, 0-9 and _; set `name`",
        )
        demand(
            look.label, "must have a label that is not empty; leave it out, or fill it"
        )
        demand(
            re.fullmatch("|#[0-9A-F]{6}", str(look.colour)),
            "must have a colour such as #1B9E9E",
        )
    try:
        json.dumps([describe(part), part.coordinates])
    except TypeError as error:
        demand(
            False, f"must have fields and columns of plain numbers and words ({error})"
        )
    return demand


def _demand(subject, holds, says):
    if not holds:
        raise AssertionError(f"{subject} {says}.")


def _codes(encoder, model, y):
    return np.asarray(encoder.infer(model, y).codes)


def _prepared(encoder, model, y):
    split = Split(y)
    if isinstance(encoder, AmortisedEncoder):
        model = encoder.calibrated(model, y)
    return encoder.prepared(model, split, Task(split, split, split, width=WIDTH)), model


def _loss(encoder, model, y):
    losses, seen = encoder.loss(model, y, 0.1)
    return jnp.sum(losses), seen


def _at_unit(encoder):
    """The encoder with all λ in the other unit."""
    fields = vars(encoder)
    moved = {
        name: _at_unit(part)
        for name, part in fields.items()
        if isinstance(part, Encoder)
    }
    if "lam" in fields:
        moved["lam"] = UNIT * fields["lam"]
    return dataclasses.replace(encoder, **moved)


def _in_unit(model, trained):
    """The model whose codes of signals in the other unit are the same. Only what is never trained
    on standardised signals may have maps of signals that are no `Affine`.
    """

    def mapped(part):
        if isinstance(part, Affine):
            return Affine(part.weight / UNIT, part.bias)
        return part / UNIT if not trained and DIM in part.shape else part

    parameters = jax.tree.map(
        mapped, model.encoder, is_leaf=lambda part: isinstance(part, Affine)
    )
    return Model(UNIT * model.decoder, ORIGIN + UNIT * model.bias, parameters)


def _floats(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), tree)


def _padded(leaf):
    return (
        jnp.pad(leaf, [(0, 2 * (size == DIM)) for size in leaf.shape])
        if leaf.ndim
        else leaf
    )


def _without_latent(leaf):
    for axis, size in enumerate(leaf.shape):
        if size == WIDTH:
            leaf = jnp.moveaxis(jnp.moveaxis(leaf, axis, 0).at[DEAD].set(0), 0, axis)
    return leaf


def _close(found, wanted, tol=1e-3):
    found = np.asarray(found)
    wanted = np.asarray(wanted)
    atol = tol * max(1, np.abs(wanted).max())
    return found.shape == wanted.shape and np.allclose(
        found, wanted, rtol=tol, atol=atol
    )


def _finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def _same(tree, other):
    return eqx.tree_equal(jax.tree.leaves(tree), jax.tree.leaves(other))


def _moved(found, other):
    """The columns that differ, or that one of the two lacks."""
    pairs = {
        name: [np.asarray(side.get(name, np.nan)) for side in (found, other)]
        for name in found.keys() | other.keys()
    }
    return {
        name
        for name, (left, right) in pairs.items()
        if left.shape != right.shape
        or not np.allclose(left, right, rtol=1e-4, atol=1e-6)
    }


def _inferred(
    protocol,
    used,
    form=np.asarray,
    padded=None,
    roll=0,
    missing="",
    few="",
    kept=(),
    origin=1.0,
    bias=1.0,
):
    """A hundred samples of each split, or sixty, with codes of any sign and some silent latents."""
    task = Setting(20, 3, 200, padded_dim=padded).task()
    rng = np.random.default_rng(1)
    atoms: Any = np.zeros((task.input_dim, WIDTH))
    atoms[:12] = rng.normal(size=(12, WIDTH)) * (np.arange(WIDTH) != DEAD)
    live = np.arange(task.input_dim) < 12
    splits = dict[str, Any]()
    codes = {}
    for name, silent in zip(SPLITS, ([0, 1, 2], [0, 4], [5]), strict=True):
        z = rng.normal(size=(100, WIDTH)) * (rng.random((100, WIDTH)) < 0.3)
        z[:, silent if used or name == "ood" else slice(None)] = 0
        rows = slice(*kept) if name == few else slice(None)
        codes[name] = form(np.roll(z, roll, axis=1).astype(np.float32)[rows])
        split = getattr(task, name)
        truth = None if missing == "truth" else form(np.asarray(split.codes)[rows])
        splits[name] = Split(split.signals[rows] + origin * live, truth)
    known = None if missing == "truth" else task.dictionary
    task = dataclasses.replace(task, dictionary=known, **splits)
    atoms = jnp.asarray(np.roll(atoms, roll, axis=1), jnp.float32)
    dictionary = None if missing == "dictionary" else atoms
    model = Model(dictionary, jnp.asarray(bias * live), Affine.create(atoms), ReLU())
    inference = Inference(task, model, timed=False)
    lasso = Lasso(0.1)
    optimum = dict[str, Any]()
    if missing not in ("dictionary", "optimum"):
        optimum = {name: inference.infer(lasso, name) for name in SCORED}
    return inference.inferred(
        codes=codes,
        optimum=optimum,
        lam=lasso.lam,
        protocol=protocol,
        encoder=lasso if optimum else None,
        method=Method("own", "sae", Given(Held(model), "own"), lasso),
    )

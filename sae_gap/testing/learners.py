"""The check of a learner."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from equinox import tree_equal
from jax.tree_util import tree_leaves

from sae_gap.core import Model, Split, Task
from sae_gap.data import Setting
from sae_gap.learners import Learner
from sae_gap.storage import trees
from sae_gap.study import blank_model, finite, fit
from sae_gap.testing import Demand, demand_of

# Families of learners that start from random numbers.
DRAWN = ("dictionary_learning", "sae", "peer")


def check_learner(learner: Learner) -> None:
    """Checks a learner on two small tasks of the paper's model.

    Raises:
      AssertionError: what it learns depends on more than its key and the data that it may see, or
        cannot be kept.
    """
    demand = demand_of(learner)
    task = _drawn(learner)
    other = _drawn(learner, seed=1)
    fits = fit(learner, [task, other, task], [0, 0, 1])
    model, unlike, rekeyed = (fitted.end.model for fitted in fits)
    _check_model(demand, learner, task, model)
    _check_blind(demand, learner, task, other, model)
    demand(
        learner.family == "baseline" or not _same(unlike, model),
        "must learn from its data; `select` them",
    )
    draws = not learner.base and learner.family in DRAWN
    demand(
        not draws or not _same(rekeyed, model),
        "must draw by its key, since seeds tell fits apart; or say by `family` that it draws none",
    )
    base = _fitted(learner.base, task) if learner.base else None
    like = blank_model(learner, task, jax.random.key(0), base)
    stored = trees.load(trees.dump(model, {}), like)
    demand(
        _same(stored, model),
        "must come back from a file; let the task decide the shapes",
    )
    wide = _fitted(learner, _drawn(learner, padded_dim=15))
    for part in (wide.bias, wide.dictionary):
        demand(
            part is None or not np.any(part[12:]),
            "must leave dimensions of zeros at zero; see `live_dims`",
        )


def _check_model(demand: Demand, learner: Learner, task: Task, model: Model) -> None:
    demand(
        finite(model), "must learn finite numbers; divide by nothing that may be zero"
    )
    dtypes = {leaf.dtype for leaf in tree_leaves(model)}
    demand(
        {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}
        == {task.train.signals.dtype},
        "must learn numbers of the type of its data; take the type from them",
    )
    # Baselines may have fewer, and those of a base may be pruned.
    whole = model.dictionary is None or model.dictionary.shape[1] == task.width
    demand(
        whole or learner.family == "baseline" or learner.base,
        "must learn as many atoms as it is asked for; see `num_latents`",
    )


def _check_blind(
    demand: Demand, learner: Learner, task: Task, other: Task, model: Model
) -> None:
    """Checks that the same is learned beside noise in the place of what it may not see."""
    noise = Split(other.train.signals)
    blind = Task(Split(task.train.signals), noise, noise, width=20)
    lacks = learner.needs(blind)
    demand(
        isinstance(lacks, str | None), "must say by `needs` in words what a task lacks"
    )
    if lacks:
        blind = replace(task, id=noise, ood=noise, seed=9)
    demand(
        _same(_fitted(learner, blind), model),
        "must learn the same bits from a key and training data, whatever is scored or fitted "
        "beside them; draw by the key, and select no other split",
    )


def _fitted(learner: Learner, task: Task) -> Model:
    return fit(learner, [task], [0])[0].end.model


def _drawn(learner: Learner, **options: Any) -> Task:
    """A small task, with inputs that tell all of it if a transcoder is to learn."""
    task = Setting(20, 3, 200, **options).task()
    if not learner.transcodes:
        return task
    signals = task.train.signals
    train = Split(signals, task.train.codes, inputs=2 * signals[:, ::-1] + 1)
    return replace(task, train=train)


def _same(tree: Any, other: Any) -> Any:
    return tree_equal(tree_leaves(tree), tree_leaves(other))

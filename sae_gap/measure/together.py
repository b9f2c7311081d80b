"""The nats that SAEs of several layers cost a network together, beside each alone.

Each layer is a source of the one runner: alone, on the clean network, and with the layers before
it replaced. Numbers that codes need, such as a threshold, are found on the clean rows of a layer
and stay for those that the SAEs before it leave.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from sae_gap.analysis import interval, placed
from sae_gap.core import Task, describe
from sae_gap.learners import Learner
from sae_gap.lm import Downstream, rows_left
from sae_gap.measure import Stages, in_nats, methods_of
from sae_gap.metrics import Inferred, Metric, fires
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store
from sae_gap.study import Inference, Method, Models

# The name of the study.
TOGETHER = "together"
ALL = "all together"


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a network as a source, where SAEs may replace the layers before it.

    Attributes:
      sources: the same documents on the network cut open after each of some blocks, ascending.
        Means are over the tokens that all of them score.
      block: the block of this layer.
      earlier: the codes that replace the blocks before it; {} leaves these as they are.
      guess: returns the reconstruction of the rows of an earlier block by a method, and the mean L0
        of its codes.
      seed: seeds the learners.
    """

    sources: Mapping[int, Any]
    block: int
    earlier: Mapping[int, Method]
    guess: Callable[[int, Method, np.ndarray], tuple[Any, float]]
    seed: int = 0

    @property
    def input_dim(self) -> int:
        """Dimension of the layer."""
        return self.sources[self.block].input_dim

    @functools.cached_property
    def network(self) -> Downstream:
        """The network as the layers before this one leave it; `l0s` are the L0s of their codes."""
        networks = {block: source.network for block, source in self.sources.items()}
        scored = np.all([network.scored for network in networks.values()], axis=0)
        here = networks[self.block]
        l0s = []

        def reconstruct(block: int, rows: np.ndarray) -> Any:
            found, l0 = self.guess(block, self.earlier[block], rows)
            l0s.append(l0)
            return found

        rows = here.activations
        if self.earlier:
            rows = rows_left(
                self.sources[self.block].lm.model,
                {block: networks[block] for block in (*self.earlier, self.block)},
                reconstruct,
            )
        found = here.left(rows, scored)
        found.l0s = l0s
        return found

    def task(self) -> Task:
        """Returns the rows that learners see, and those that the layers before this one leave."""
        task = self.sources[self.block].task()
        held = dataclasses.replace(
            task.id, signals=jnp.asarray(self.network.activations)
        )
        return dataclasses.replace(task, id=held, ood=held, network=self.network)

    def seen(self) -> dict[str, Any]:
        """Returns all that decides the rows that learners see."""
        return self.sources[self.block].seen()

    def asdict(self) -> dict[str, Any]:
        """Returns all that decides the data."""
        return {
            "sources": [source.asdict() for source in self.sources.values()],
            "block": self.block,
            "earlier": [
                describe((each.learner, each.encoder)) for each in self.earlier.values()
            ],
            "seed": self.seed,
        }


def _cost(inferred: Inferred) -> dict[str, Any]:
    """Sums by document over the tokens that all layers score: of KL and of ΔCE, in nats, and their
    number; and the L0 of the codes of all replaced layers, their mean.
    """
    network = inferred.task.network
    nats = network.nats(inferred.reconstruction)
    return {
        "kl_sums": network.by_document(nats.kl).tolist(),
        "delta_ce_sums": network.by_document(nats.ce - network.clean.ce).tolist(),
        "tokens": network.tokens.tolist(),
        "mean_l0": float(np.mean([*network.l0s, _l0(inferred.codes["id"], network)])),
    }


METRIC = Metric("nats_together", _cost, everywhere=False)


def _l0(codes: Any, network: Downstream) -> float:
    return float(fires(codes)[network.replaced].sum(axis=1).mean())


def put_back_together(
    sources: Mapping[int, Any],
    saes: Mapping[int, SAE],
    store: Store,
    l0: Sequence[float],
    codes: Sequence[str],
) -> list[Row]:
    """Measures in nats what reconstructions cost a network, a layer alone and all together, at the
    L0 of each encoder.

    Args:
      sources: the same documents on the network cut open after each block, ascending.
      saes: an SAE with an encoder for each.
      store: where rows go.
      l0: mean L0s that stand for close ones of encoders, as in `put_back`.
      codes: names of codes, "own" first; those that some dictionary cannot have are left out.

    Returns:
      For each codes a line for what is `replaced`: each block alone, the sum of these and all
      together. `codes`, `l0`, `kl` and `delta_ce`; the KL as a `ratio` of the sum of each alone,
      and of that with own codes, `of_own`; and half the 95 % interval of each, `<name>_half`. Means
      are over the tokens that all layers score, intervals over their `documents`.

    Raises:
      ValueError: an SAE has no encoder, its latents never fire, or no token is scored at every
        layer.
    """
    models = Models(store.folder / "models")

    @functools.cache
    def inference(block: int, learner: Learner) -> Inference:
        source = sources[block]
        task = source.task()
        (fit,) = models.fit(learner, [source], [task])
        return Inference(task, fit.end.model, timed=False)

    def guess(block: int, method: Method, rows: np.ndarray) -> tuple[Any, float]:
        clean = inference(block, method.learner)
        encoder = clean.prepare(method.encoder)
        found = clean.code(encoder, clean.model.signals(jnp.asarray(rows))).codes
        return clean.model.reconstruct(found, rows), _l0(found, sources[block].network)

    def measured(block, methods, earlier, **options):
        layer = Layer(sources, block, earlier, guess)
        return Stages(TOGETHER, store).run(layer, methods, [METRIC], **options)

    methods: dict[str, dict[int, Method]] = {}
    alone: dict[str, dict[str, Row]] = {}
    for block, sae in saes.items():
        (own,) = measured(block, [*methods_of(sae.given, ["own"], 1)], {}) or [
            {"l0": 0}
        ]
        if not own["l0"]:
            raise ValueError(
                f"{sae.name} has no encoder, or a dead one; give an SAE that codes."
            )
        level = placed(own["l0"], l0)["level"]
        mine = {
            each.row["codes"]: each
            for each in methods_of(sae.given, in_nats(codes, [*saes.values()]), level)
        }
        for row in measured(block, [*mine.values()], {}):
            alone.setdefault(row["codes"], {})[f"block {block}"] = row
            methods.setdefault(row["codes"], {})[block] = mine[row["codes"]]
    lines: list[Row] = []
    own_kl: dict[str, np.ndarray] = {}
    for name, rows in alone.items():
        if len(rows) < len(saes):
            continue
        earlier = methods[name]
        block, last = earlier.popitem()
        for whole in measured(block, [last], earlier, calibrate_on="clean"):
            lines += _lines_of(name, rows, whole, own_kl)
    return lines


def _lines_of(
    name: str, alone: Mapping[str, Row], whole: Row, own_kl: dict[str, np.ndarray]
) -> list[Row]:
    """The lines of one codes; `own_kl` gathers the sums of the first codes for the others."""
    summed: Row = {"mean_l0": None}
    for column in ("kl_sums", "delta_ce_sums"):
        summed[column] = np.sum([row[column] for row in alone.values()], axis=0)
    lines = []
    for words, row in {**alone, "the sum of these": summed, ALL: whole}.items():
        tokens = np.asarray(whole["tokens"])
        kl = np.asarray(row["kl_sums"])
        line: Row = {"codes": name, "replaced": words, "l0": row["mean_l0"]}
        for column, sums, unit in (
            ("kl", kl, tokens),
            ("delta_ce", np.asarray(row["delta_ce_sums"]), tokens),
            ("ratio", kl, summed["kl_sums"]),
            ("of_own", kl, own_kl.setdefault(words, kl)),
        ):
            low, high = interval(sums, unit)
            line[column] = sums.sum() / unit.sum()
            line[f"{column}_half"] = (high - low) / 2
        lines.append(line | {"documents": np.count_nonzero(tokens)})
    return lines


def together_sentence(lines: Sequence[Row]) -> str:
    """Says what SAEs cost together, and how much of that is their encoders'."""
    own, *others = (line for line in lines if line["replaced"] == ALL)

    def said(line: Row) -> str:
        return (
            f"{line['kl']:.3f} ± {line['kl_half']:.3f} nats of KL with {line['codes']} codes, "
            f"{line['ratio']:.2f} times the sum of each alone"
        )

    text = f"Together the SAEs cost {said(own)}"
    for line in others:
        share = f"{100 * (1 - line['of_own']):.0f} ± {100 * line['of_own_half']:.0f} %"
        text += f"; {said(line)}, so {share} of own codes' cost is the encoders'"
    return f"{text}."

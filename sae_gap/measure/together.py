"""The nats that SAEs of several layers cost a network together, beside each alone.

Numbers that codes need, such as a threshold, are found on the clean rows of a layer and stay for
those that the SAEs before it leave.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from sae_gap.analysis import interval, placed
from sae_gap.core import describe, identity
from sae_gap.lm import score_together
from sae_gap.measure import in_nats, methods_of
from sae_gap.metrics import fires, nats
from sae_gap.saes import SAE
from sae_gap.storage import Row, Store, results
from sae_gap.study import Inference, Models

ALL = "all together"


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
      ValueError: an SAE has no encoder, or its latents never fire.
    """
    first, *_ = sources.values()
    fits = Models(store.folder / "models")
    stored = {row["key"]: row for row in store.rows()}

    @functools.cache
    def inference(layer, learner):
        task = sources[layer].task()
        (fit,) = fits.fit(learner, [sources[layer]], [task])
        return Inference(task, fit.end.model, timed=False)

    def measured(methods):
        decides: Row = {
            "sources": [source.asdict() for source in sources.values()],
            "codes": {at: describe((each.learner, each.encoder)) for at, each in methods.items()},
            "numerics": [identity.NUMERICS, identity.precision(), nats.METRIC.version],
        }
        key, l0s = results.key(decides), []

        def guess(layer, rows):
            method = methods[layer]
            clean = inference(layer, method.learner)
            signals = clean.model.signals(jnp.asarray(rows))
            codes = clean.code(clean.prepare(method.encoder), signals).codes
            l0s.append(fires(codes)[sources[layer].network.replaced].sum(axis=1).mean())
            return clean.model.reconstruct(codes, rows)

        if key not in stored:
            networks = {layer: source.network for layer, source in sources.items()}
            sums = score_together(first.lm.model, networks, methods, guess)
            row = decides | {"key": key, "sums": sums, "l0": float(np.mean(l0s))}
            store.put(row | results.provenance())
            stored[key] = row
        return stored[key]

    found: Any = {}
    own: Any = {}
    lines = []
    for layer, sae in saes.items():
        own_l0s = [measured({layer: each})["l0"] for each in methods_of(sae.given, ["own"], 1)]
        if not any(own_l0s):
            raise ValueError(f"{sae.name} has no encoder, or a dead one; give an SAE that codes.")
        level = placed(own_l0s[0], l0)["level"]
        for each in methods_of(sae.given, in_nats(codes, [*saes.values()]), level):
            found.setdefault(each.row["codes"], {})[layer] = each
    for name, methods in found.items():
        if len(methods) < len(saes):
            continue
        rows = {f"block {layer}": measured({layer: each}) for layer, each in methods.items()}
        summed = np.sum([row["sums"] for row in rows.values()], axis=0)
        rows |= {"the sum of these": {"sums": summed}, ALL: measured(methods)}
        tokens = np.asarray(rows[ALL]["sums"][-1])
        for words, row in rows.items():
            kl, delta, _ = np.asarray(row["sums"])
            line = {"codes": name, "replaced": words, "l0": row.get("l0")}
            for column, sums, unit in (
                ("kl", kl, tokens),
                ("delta_ce", delta, tokens),
                ("ratio", kl, summed[0]),
                ("of_own", kl, own.setdefault(words, kl)),
            ):
                low, high = interval(sums, unit)
                line |= {column: sums.sum() / unit.sum(), f"{column}_half": (high - low) / 2}
            lines.append(line | {"documents": np.count_nonzero(tokens)})
    return lines


def together_sentence(lines: Sequence[Row]) -> str:
    """Says what SAEs cost together, and how much of that is their encoders'."""
    own, *others = (line for line in lines if line["replaced"] == ALL)

    def said(line):
        cost = f"{line['kl']:.3f} ± {line['kl_half']:.3f} nats of KL with {line['codes']} codes"
        return f"{cost}, {line['ratio']:.2f} times the sum of each alone"

    text = f"Together the SAEs cost {said(own)}"
    for line in others:
        share, half = 100 * (1 - line["of_own"]), 100 * line["of_own_half"]
        text += f"; {said(line)}, so {share:.0f} ± {half:.0f} % of own codes' cost is the encoders'"
    return f"{text}."

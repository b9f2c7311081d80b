"""Nats that reconstructions cost the network when they replace a layer's output."""

from typing import Any

from sae_gap.core import Column
from sae_gap.metrics import Inferred, Metric


def measure(inferred: Inferred) -> dict[str, Any]:
    """`Downstream.score` of the reconstruction; `tokens`, how many are averaged, and `ce_clean`,
    the unchanged network's loss, by document; and its loss with zeros and with the mean in place of
    the layer, `ce_zero` and `ce_mean`.
    """
    network = inferred.task.network
    return network.score(inferred.reconstruction) | {
        "tokens": network.tokens.tolist(),
        "ce_clean": network.by_document(network.clean.ce).tolist(),
        "ce_zero": network.zero.ce.mean(),
        "ce_mean": network.mean.ce.mean(),
    }


METRIC = Metric(
    "nats",
    measure,
    {
        "kl": Column("KL(model ‖ patched), nats", 0.0, "KL"),
        "delta_ce": Column("nats of loss above the model's own", 0.0, "ΔCE"),
    },
    everywhere=False,
    needs=lambda inferred: (
        None if inferred.task.network else "there is no network to run"
    ),
)

"""A recorded layer and its network as a source: reconstructions of held-out documents can be put
back into the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sae_gap.core import Split, Task
from sae_gap.data import HeldOut
from sae_gap.lm import FIRST, LM, Downstream, Recorded, cut_open
from sae_gap.storage import digest


@dataclass(frozen=True, eq=False)
class OnNetwork:
    """Documents that run through a network, cut open at a layer.

    Args:
      recorded: the recording.
      lm: the network that was recorded.
      layer: the network is cut open after this block, counted from 0, or at its MLP if `rows` have
        inputs.
      rows: the rows that learners see, and the held-out ones.
      tokens: number of held-out tokens to run, rounded up to whole documents.
      first: the first place of a window that means include.
      documents_seed: draws the order of the documents.
      seed: seeds the learners.
    """

    recorded: Recorded
    lm: LM
    layer: int
    rows: HeldOut
    tokens: int = 8_192
    first: int = FIRST
    documents_seed: int = 0
    seed: int = 0

    @property
    def input_dim(self) -> int:
        """Dimension of the layer."""
        return self.rows.input_dim

    def documents(self, part: int = 1) -> list[int]:
        """Returns held-out documents, or training documents if part is 0, in random order, enough
        for the requested tokens.
        """
        held = self.recorded.documents[self.rows.parts[part].numbers]
        numbers, sizes = np.unique(held, return_counts=True)
        order = np.random.default_rng(self.documents_seed).permutation(len(numbers))
        count = 1 + np.searchsorted(np.cumsum(sizes[order]), self.tokens)
        return numbers[order[:count]].tolist()

    def network_on(self, documents: Sequence[int]) -> Downstream:
        """Runs the network on some documents once, unchanged."""
        batches = self.recorded.batches(documents)
        members = np.concatenate(
            [batch.documents[batch.documents >= 0] for batch in batches]
        )
        added = self.lm.tokenizer.get_added_tokens_decoder()  # type: ignore[attr-defined]
        at_mlp = self.rows.inputs is not None
        return Downstream(
            cut_open(self.lm.model, self.layer, mlp=at_mlp),
            [batch.windows for batch in batches],
            documents=members,
            special=[number for number, token in added.items() if token.special],
            first=self.first,
            outliers="keep" if self.rows.keep_outliers else "drop",
        )

    @cached_property
    def network(self) -> Downstream:
        """The network on the held-out documents."""
        found = self.network_on(self.documents())
        found.information = cache(self.information)  # type: ignore[attr-defined]
        return found

    def information(self) -> Float[np.ndarray, "dim dim"]:
        """Returns F, the cost of errors in nats, on equally many tokens of training documents."""
        return self.network_on(self.documents(part=0)).sensitivity()

    def task(self) -> Task:
        """Returns the rows that learners see, and the network's replaced rows."""
        net = self.network
        held = Split(
            jnp.asarray(net.activations),
            documents=net.documents,
            counts=net.replaced,
            inputs=net.inputs,
        )
        return Task(
            self.rows.train,
            held,
            held,
            width=self.rows.width,
            seed=self.seed,
            network=net,
        )

    @cached_property
    def _texts(self) -> list[str]:
        """Digests of what the network reads: held-out documents, then training documents."""
        found = []
        for part in (1, 0):
            batches = self.recorded.batches(self.documents(part))
            read = (
                [batch.documents for batch in batches],
                [batch.windows for batch in batches],
            )
            found.append(digest(jax.tree.leaves(read)))
        return found

    def seen(self) -> dict[str, Any]:
        """Returns all that decides the rows that learners see."""
        return self.rows.seen() | {"seed": self.seed}

    def asdict(self) -> dict[str, Any]:
        """Returns all that decides the data."""
        return self.rows.asdict() | {
            "model": self.lm.identity,
            "layer": self.layer,
            "first": self.first,
            "texts": self._texts,
            "seed": self.seed,
        }

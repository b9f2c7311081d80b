"""The downstream cost of a reconstruction, in nats: it replaces a layer's activations, and the
model runs on from there.

With p the model's distribution of the next token and q the distribution after the replacement, each
token t with target v has

  CE = -log q(v),   ΔCE = log p(v) - log q(v),   KL = Σ_u p(u) (log p(u) - log q(u)).

The logits are linear in the features f that the unembedding E multiplies, so the sum over the
vocabulary is only needed once, for the clean model:

  KL = log Z_q - log Z_p - ē · (f_q - f_p),   ē = Σ_u p(u) E_u,   log Z = log Σ_u exp(E_u · f).

To score a reconstruction is then to run the blocks after the layer and to take one product with E,
a few hundred tokens at a time.

Where reconstructions replace several layers together, a later one is of the stream that the earlier
ones leave; p stays the clean model's.

References:
  Gao et al. (2024), "Scaling and evaluating sparse autoencoders". Karvonen et al. (2025),
  "SAEBench".
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core import as_matrix, check_choice, check_integer
from sae_gap.data import find_outliers, norms
from sae_gap.lm import LanguageModel, Network, TokenRows, Windows, cut_open
from sae_gap.lm.read_out import drawn_scores, read_out
from sae_gap.storage import Row

# Means leave out the first places of a window, which have little context.
FIRST = 8


class Nats(NamedTuple):
    """The cost of each scored token, in nats.

    Attributes:
      ce: the cross-entropy of the next token, (tokens,).
      kl: the divergence of this model from the clean one, (tokens,).
    """

    ce: Float[np.ndarray, " tokens"]
    kl: Float[np.ndarray, " tokens"]


class _Scored(NamedTuple):
    """What is known of each scored token without a change.

    Attributes:
      targets: its next token, (tokens,).
      features: what the unembedding multiplies, (tokens, features).
      log_z: log Z_p, (tokens,).
      expected: ē, (tokens, features).
    """

    targets: Int[np.ndarray, " tokens"]
    features: Float[np.ndarray, "tokens features"]
    log_z: Float[np.ndarray, " tokens"]
    expected: Any


class Downstream:
    """A model on some texts. It runs once unchanged, and then scores any reconstruction of the
    residual stream at a layer.

    A row is a token of the windows, padding left out, in the order of batches, rows and places. A
    reconstruction replaces all rows but special tokens and, unless `outliers` is "keep", outlier
    tokens. Means are over the replaced rows at place `first` of their window and later whose next
    token is in the same window.

    Args:
      network: the model, cut open.
      batches: the texts; with one shape for all, they compile once.
      documents: a number for each row, equal within a document, (rows,); None treats each window as
        one.
      first: the first place of a window that means include, counted from 0.
      special: tokens that are neither replaced nor averaged.
      outliers: "drop" leaves rows beyond ten times the median norm unchanged; "keep" treats them
        like other rows.

    Attributes:
      activations: the clean residual stream, or the MLP's output, (rows, dim).
      inputs: what the MLP reads, (rows, dim), or None.
      documents: the document of each row, counted from 0, (rows,).
      ordinary: a mask of the rows that are no special tokens, (rows,).
      replaced: a mask of the rows that a reconstruction replaces, (rows,).
      scored: a mask of the rows that means include, (rows,).
      clean: the cost of the tokens without a change; its divergence is zero.

    Raises:
      ValueError: no token is scored, a token is beyond the vocabulary, or the rows do not have a
        document each.
    """

    unchanged: Float[np.ndarray, "rows dim"]
    l0s: list[float]

    def __init__(
        self,
        network: Network,
        batches: Sequence[Windows],
        *,
        documents: Int[ArrayLike, " rows"] | None = None,
        first: int = FIRST,
        special: Collection[int] = (),
        outliers: str = "drop",
    ):
        check_choice("outliers", outliers, ("drop", "keep"))
        check_integer("first", first, least=0)
        rows = TokenRows(batches)
        self._network = network
        self._rows = rows
        _check_tokens(rows.tokens, np.shape(network.unembedding)[0])
        streams = [
            np.asarray(network.before(windows), np.float32) for windows in batches
        ]
        self.activations = rows.join(streams)
        self.inputs = None
        # What the stream has beside the replaced part of it.
        self._rest: Any = 0
        if network.mlp:
            inputs, outputs = zip(*map(network.mlp, batches), strict=True)
            self.inputs = rows.join(inputs)
            added = rows.join(outputs)
            self._rest = self.activations - added
            self.activations = added
        self.documents = _numbered(documents, rows.positions)
        self.ordinary = ~np.isin(rows.tokens, list(special))
        self.replaced = self.ordinary
        if outliers == "drop":
            self.replaced = self.ordinary.copy()
            self.replaced[find_outliers(norms(self.activations)).rows] = False
        self.scored = self.replaced & (rows.positions >= first) & (rows.following >= 0)
        if not self.scored.any():
            raise ValueError(
                f"no token from place {first} of its window on has a next one; give longer texts."
            )
        targets = rows.following[self.scored]
        features = rows.run(network.after, streams)[self.scored]
        read = read_out(network.unembedding, features, targets, expected=True)
        self._known = _Scored(targets, features, read.log_z, read.expected)
        self.clean = Nats(read.log_z - read.logit, np.zeros(len(targets)))

    @classmethod
    def of_model(
        cls,
        model: LanguageModel,
        batches: Sequence[Windows],
        layer: int,
        *,
        mlp: bool = False,
        **options,
    ) -> "Downstream":
        """Cuts a model open after the block `layer`, counted from 0, or at the output of its MLP;
        `options` are the class's.
        """
        return cls(cut_open(model, layer, mlp=mlp), batches, **options)

    @property
    def tokens(self) -> Int[np.ndarray, " documents"]:
        """The number of scored tokens of each document."""
        return self.by_document(np.ones(self.scored.sum())).astype(int)

    def by_document(
        self, nats: Float[ArrayLike, " tokens"]
    ) -> Float[np.ndarray, " documents"]:
        """Returns the sums over the scored tokens of each document."""
        return np.bincount(self.documents[self.scored], nats, self.documents.max() + 1)

    @cached_property
    def zero(self) -> Nats:
        """The cost of the tokens if all rows are zero, also outliers and special ones, the ablation
        of SAEBench and SAELens.
        """
        return self._nats(np.zeros_like(self.activations))

    @cached_property
    def mean(self) -> Nats:
        """The cost of the tokens if the replaced rows are their mean."""
        mean = self.activations[self.replaced].mean(0, np.float64)
        return self.nats(np.broadcast_to(mean, self.activations.shape))

    def nats(self, reconstruction: Float[ArrayLike, "rows dim"]) -> Nats:
        """Returns the cost of each scored token if a reconstruction replaces the replaced rows.

        Args:
          reconstruction: of all rows of `activations`, in their units; rows that are not replaced
            are ignored.

        Returns:
          Cross-entropy and divergence of each token, (tokens,).

        Raises:
          ValueError: it has another shape, or is not finite.
        """
        return self._nats(self._put(reconstruction, self.activations))

    def score(self, reconstruction: Float[ArrayLike, "rows dim"]) -> Row:
        """Returns the cost of a reconstruction.

        Args:
          reconstruction: as for `nats`.

        Returns:
          Means over scored tokens, in nats: `ce`, `delta_ce` above the clean one, `kl`. Scores, 1
          for a perfect reconstruction and 0 for an ablation: `ce_score` and `kl_score` by zeros,
          as in SAEBench and SAELens, `ce_score_mean` and `kl_score_mean` by the mean. Sums by
          document: `ce_sums`, `kl_sums`.
        """
        nats = self.nats(reconstruction)
        clean = self.clean.ce.mean()
        ce = nats.ce.mean()
        kl = nats.kl.mean()
        row: Row = {"ce": ce, "delta_ce": ce - clean, "kl": kl}
        for ending, ablated in {"": self.zero, "_mean": self.mean}.items():
            lost = ablated.ce.mean()
            row[f"ce_score{ending}"] = (lost - ce) / (lost - clean)
            row[f"kl_score{ending}"] = 1 - kl / ablated.kl.mean()
        row["ce_sums"] = self.by_document(nats.ce)
        row["kl_sums"] = self.by_document(nats.kl)
        return row

    def left(
        self, rows: Float[np.ndarray, "rows dim"], scored: Bool[np.ndarray, " rows"]
    ) -> "Downstream":
        """Returns this network where something before the layer has changed its rows. `unchanged`
        holds the clean rows, and costs are still above those of the clean model.

        Args:
          rows: what the layer now has, (rows, dim).
          scored: a mask of the rows that means may include, (rows,).

        Raises:
          ValueError: no token is scored.
        """
        kept = scored[self.scored]
        if not kept.any():
            raise ValueError("no token is scored at every layer; give longer texts.")
        changed = copy(self)
        # Their costs are those of the clean rows.
        for name in ("zero", "mean"):
            vars(changed).pop(name, None)
        changed.unchanged = self.activations
        changed.activations = rows
        changed.scored = self.scored & scored
        changed.clean = Nats(self.clean.ce[kept], self.clean.kl[kept])
        changed._known = _Scored(*(part[kept] for part in self._known))
        return changed

    def sensitivity(self) -> Float[np.ndarray, "dim dim"]:
        """Returns F, the Fisher information of the next tokens: small, independent errors δ of the
        replaced rows cost about `½ Σ δᵀ F δ` nats in all.

        F is the mean over replaced rows of `g gᵀ`, where g is the gradient of `Σ_t log q(v_t)` with
        respect to the row, with v_t drawn from the clean model's distribution at token t.
        """
        streams = self._rows.spread(self.activations + self._rest)
        replaced = self._rows.split(self.replaced)
        total: Any = 0
        for number, stream in enumerate(streams):
            gradients = self._gradients(stream, number)[replaced[number]]
            total = total + gradients.T @ gradients
        return total / self.replaced.sum()

    def _gradients(
        self, stream: Float[np.ndarray, "rows length dim"], number: int
    ) -> Float[np.ndarray, "tokens dim"]:
        """Returns the gradient by each row of a batch of the log-probability of next tokens, which
        are drawn.
        """
        windows = self._rows.batches[number]
        real = self._rows.real[number]

        def features_of(stream: Array) -> Array:
            return jnp.asarray(self._network.after(stream, windows))

        features, pull = jax.vjp(features_of, stream)
        key = jax.random.fold_in(jax.random.key(0), number)
        scores = drawn_scores(self._network.unembedding, features[real], key)
        (gradients,) = pull(jnp.zeros_like(features).at[real].set(scores))
        return np.asarray(gradients, np.float64)[real]

    def _put(
        self,
        reconstruction: Float[ArrayLike, "rows dim"],
        rows: Float[np.ndarray, "rows dim"],
    ) -> np.ndarray:
        """Returns rows with a reconstruction in the place of the replaced ones."""
        guess = as_matrix("reconstruction", reconstruction)
        if guess.shape != rows.shape:
            raise ValueError(
                f"the reconstruction must be of shape {rows.shape}, but it is {guess.shape}."
            )
        return np.where(self.replaced[:, None], guess, rows)

    def _nats(self, rows: Float[np.ndarray, "rows dim"]) -> Nats:
        """Returns the cost of each scored token if these rows replace all activations."""
        known = self._known
        streams = self._rows.spread(rows + self._rest)
        features = self._rows.run(self._network.after, streams)[self.scored]
        log_z, logit, _ = read_out(self._network.unembedding, features, known.targets)
        moved = features - known.features
        pulled = np.einsum("td,td->t", known.expected, moved, dtype=np.float64)
        return Nats(log_z - logit, log_z - known.log_z - pulled)


def _check_tokens(tokens: np.ndarray, vocabulary: int) -> None:
    beyond = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if beyond.size:
        raise ValueError(
            f"token {beyond[0]} is beyond the {vocabulary} rows of the unembedding; give the "
            "tokens of this model."
        )


def _numbered(
    documents: Int[ArrayLike, " rows"] | None, positions: np.ndarray
) -> Int[np.ndarray, " rows"]:
    """The document of each row, counted from 0; each window is one if none are given."""
    if documents is None:
        documents = np.cumsum(positions == 0)
    documents = np.asarray(documents)
    if documents.shape != positions.shape:
        raise ValueError(
            f"documents must be {len(positions)} integers, one for each token, but there are "
            f"{documents.size}."
        )
    return np.unique(documents, return_inverse=True)[1]


def rows_left(
    model: LanguageModel,
    networks: Mapping[int, Downstream],
    reconstruct: Callable[[int, np.ndarray], Float[ArrayLike, "rows dim"]],
) -> Float[np.ndarray, "rows dim"]:
    """Returns the stream after the last of some blocks, where reconstructions replace the streams
    after those before it.

    Args:
      model: the model of all networks.
      networks: the model on the same batches, cut open after each block, ascending.
      reconstruct: returns the reconstruction of a block's rows, which those before leave.

    Raises:
      ValueError: a reconstruction has another shape than its rows, or is not finite.
    """
    *earlier, last = networks
    token_rows = networks[last]._rows
    streams: Any = map(model.embed, token_rows.batches)
    start = 0
    for block in earlier:
        run = partial(model.run_blocks, start=start, stop=block + 1)
        rows = token_rows.run(run, streams)
        guess = networks[block]._put(reconstruct(block, rows), rows)
        streams = token_rows.spread(guess)
        start = block + 1
    run = partial(model.run_blocks, start=start, stop=last + 1)
    return token_rows.run(run, streams)

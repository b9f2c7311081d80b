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

import copy
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core import as_matrix, check_choice, check_integer, product
from sae_gap.data import find_outliers, norms
from sae_gap.lm import LanguageModel, Windows
from sae_gap.storage import Row

# The logits of so many tokens lie in memory at once.
CHUNK = 256
# Means leave out the first places of a window, which have little context.
FIRST = 8


class Network(NamedTuple):
    """A model cut open at a layer, ready for reconstructions there.

    Attributes:
      before: maps windows to the residual stream at the layer, (rows, length, dim).
      after: maps that stream and windows to the features of the logits, (rows, length, features).
      unembedding: E; the logits are `features @ E.T`, (vocabulary, features).
      mlp: maps windows to what the MLP before the layer reads and adds to the stream, if
        reconstructions replace its output; None if they replace the stream.
    """

    before: Callable[[Windows], Float[ArrayLike, "rows length dim"]]
    after: Callable[
        [Float[Array, "rows length dim"], Windows],
        Float[ArrayLike, "rows length features"],
    ]
    unembedding: Float[ArrayLike, "vocabulary features"]
    mlp: Callable[[Windows], tuple[Any, Any]] | None = None


class Nats(NamedTuple):
    """The cost of each scored token, in nats.

    Attributes:
      ce: the cross-entropy of the next token, (tokens,).
      kl: the divergence of this model from the clean one, (tokens,).
    """

    ce: Float[np.ndarray, " tokens"]
    kl: Float[np.ndarray, " tokens"]


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
      outliers: a mask of the outlier tokens, kept or not, (rows,).
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
        self._network = network
        self._batches = batches
        self._real = [np.asarray(windows.segments) >= 0 for windows in batches]
        tokens, positions, following = (
            np.concatenate(parts) for parts in zip(*map(_rows, batches), strict=True)
        )
        vocabulary = np.shape(network.unembedding)[0]
        beyond = tokens[(tokens < 0) | (tokens >= vocabulary)]
        if beyond.size:
            raise ValueError(
                f"token {beyond[0]} is beyond the {vocabulary} rows of the unembedding; give the "
                "tokens of this model."
            )
        hidden = [
            np.asarray(network.before(windows), np.float32) for windows in batches
        ]
        self.activations = self._gathered(hidden)
        self.inputs = None
        # What the stream has beside the replaced part of it.
        self._rest: Any = 0
        if network.mlp:
            stream = self.activations
            parts = zip(*map(network.mlp, batches), strict=True)
            self.inputs, self.activations = map(self._gathered, parts)
            self._rest = stream - self.activations
        named = (
            np.cumsum(positions == 0) if documents is None else np.asarray(documents)
        )
        if named.shape != tokens.shape:
            raise ValueError(
                f"documents must be {len(tokens)} integers, one for each token, but there are "
                f"{named.size}."
            )
        self.documents = np.unique(named, return_inverse=True)[1]
        self.outliers = np.isin(
            np.arange(len(tokens)), find_outliers(norms(self.activations)).rows
        )
        self.ordinary = ~np.isin(tokens, list(special))
        self.replaced = self.ordinary & ~(self.outliers & (outliers == "drop"))
        self.scored = self.replaced & (positions >= first) & (following >= 0)
        if not self.scored.any():
            raise ValueError(
                f"no token from place {first} of its window on has a next one; give longer texts."
            )
        self._targets = following[self.scored]
        self._features = self._run(hidden, network.after)[self.scored]
        self._log_z, logits, self._expected = _read_out(
            network.unembedding, self._features, self._targets, expected=True
        )
        self.clean = Nats(self._log_z - logits, np.zeros(len(logits)))

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
        check_integer("layer", layer, least=0, most=model.num_blocks - 1)

        def after(hidden, windows):
            end = model.run_blocks(hidden, windows, layer + 1, model.num_blocks)
            return model.features(end)

        def before(windows, stop=layer + 1):
            return model.run_blocks(model.embed(windows), windows, 0, stop)

        def of_mlp(windows):
            return model.run_mlp(before(windows, layer), windows, layer)

        network = Network(before, after, model.unembedding, of_mlp if mlp else None)
        return cls(network, batches, **options)

    @property
    def tokens(self) -> Int[np.ndarray, " documents"]:
        """The number of scored tokens of each document."""
        return self.by_document(np.ones(len(self._targets))).astype(int)

    def by_document(
        self, nats: Float[ArrayLike, " tokens"]
    ) -> Float[np.ndarray, " documents"]:
        """Returns the sums over the scored tokens of each document."""
        return np.bincount(self.documents[self.scored], nats, self.documents.max() + 1)

    @functools.cached_property
    def zero(self) -> Nats:
        """The cost of the tokens if all rows are zero, also outliers and special ones, the ablation
        of SAEBench and SAELens.
        """
        return self._nats(np.zeros_like(self.activations))

    @functools.cached_property
    def mean(self) -> Nats:
        """The cost of the tokens if the replaced rows are their mean."""
        mean = self.activations[self.replaced].mean(axis=0, dtype=np.float64)
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
            row[f"ce_score{ending}"] = (ablated.ce.mean() - ce) / (
                ablated.ce.mean() - clean
            )
            row[f"kl_score{ending}"] = 1 - kl / ablated.kl.mean()
        return row | {
            "ce_sums": self.by_document(nats.ce),
            "kl_sums": self.by_document(nats.kl),
        }

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
        found = copy.copy(self)
        # Their costs are those of the clean rows.
        for name in ("zero", "mean"):
            vars(found).pop(name, None)
        found.unchanged = self.activations
        found.activations = rows
        found.scored = self.scored & scored
        found.clean = Nats(self.clean.ce[kept], self.clean.kl[kept])
        for name in ("_targets", "_features", "_log_z", "_expected"):
            setattr(found, name, getattr(self, name)[kept])
        return found

    def sensitivity(self) -> Float[np.ndarray, "dim dim"]:
        """Returns F, the Fisher information of the next tokens: small, independent errors δ of the
        replaced rows cost about `½ Σ δᵀ F δ` nats in all.

        F is the mean over replaced rows of `g gᵀ`, where g is the gradient of `Σ_t log q(v_t)` with
        respect to the row, with v_t drawn from the clean model's distribution at token t.
        """
        total = np.zeros(2 * self.activations.shape[1:])
        whole = self._whole(self.activations + self._rest)
        replaced = self._split(self.replaced)
        parts = zip(whole, self._batches, self._real, replaced, strict=True)
        for number, (hidden, windows, real, rows) in enumerate(parts):
            later = functools.partial(_features_after, self._network, windows)
            features, pull = jax.vjp(later, hidden)
            key = jax.random.fold_in(jax.random.key(0), number)
            scores = _drawn_scores(self._network.unembedding, features[real], key)
            (gradients,) = pull(jnp.zeros_like(features).at[real].set(scores))
            gradients = np.asarray(gradients, np.float64)[real][rows]
            total += gradients.T @ gradients
        return total / self.replaced.sum()

    def _put(self, reconstruction, rows) -> np.ndarray:
        """Returns rows with a reconstruction in the place of the replaced ones."""
        guess = as_matrix("reconstruction", reconstruction)
        if guess.shape != rows.shape:
            raise ValueError(
                f"the reconstruction must be of shape {rows.shape}, but it is {guess.shape}."
            )
        return np.where(self.replaced[:, None], guess, rows)

    def _split(self, rows) -> list[np.ndarray]:
        """Returns the rows of each batch."""
        return np.split(
            rows, np.cumsum([np.count_nonzero(real) for real in self._real])[:-1]
        )

    def _whole(self, rows) -> list[np.ndarray]:
        """Returns the residual stream of each batch if these rows replace all activations."""
        hidden = [
            np.zeros((*real.shape, rows.shape[1]), np.float32) for real in self._real
        ]
        for whole, real, part in zip(
            hidden, self._real, self._split(rows), strict=True
        ):
            whole[real] = part
        return hidden

    def _nats(self, rows) -> Nats:
        """Returns the cost of each scored token if these rows replace all activations."""
        hidden = self._whole(rows + self._rest)
        features = self._run(hidden, self._network.after)[self.scored]
        log_z, logits, _ = _read_out(self._network.unembedding, features, self._targets)
        moved = features - self._features
        pulled = np.einsum("td,td->t", self._expected, moved, dtype=np.float64)
        return Nats(log_z - logits, log_z - self._log_z - pulled)

    def _run(self, hidden: Sequence[np.ndarray], run) -> np.ndarray:
        """Returns the rows that a function gives for the residual stream of each batch."""
        return self._gathered(map(run, map(jnp.asarray, hidden), self._batches))

    def _gathered(self, values: Iterable[ArrayLike]) -> np.ndarray:
        """Joins the rows of all batches in float32, without padding."""
        pairs = zip(values, self._real, strict=True)
        return np.concatenate(
            [np.asarray(value, np.float32)[real] for value, real in pairs]
        )


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
    *_, last = networks
    hidden: Any = map(model.embed, networks[last]._batches)
    start = 0
    for block, net in networks.items():
        run = functools.partial(model.run_blocks, start=start, stop=block + 1)
        rows = net._run(hidden, run)
        if block != last:
            hidden = net._whole(net._put(reconstruct(block, rows), rows))
            start = block + 1
    return rows


def _read_out(*given, expected=False):
    """Returns `_log_normaliser` of each scored token, as NumPy arrays."""
    return [
        np.asarray(part, np.float64)
        for part in _log_normaliser(*given, expected=expected)
    ]


@functools.partial(jax.jit, static_argnames="expected")
def _log_normaliser(head, features, targets, *, expected):
    """Returns log Z, the target's logit and, if asked for, the mean row of E under the distribution
    of the next token.
    """

    def of_token(token):
        feature, target = token
        logits = product(feature, head.T)
        log_z = jax.nn.logsumexp(logits)
        mean = product(jnp.exp(logits - log_z), head) if expected else ()
        return log_z, logits[target], mean

    return jax.lax.map(of_token, (features, targets), batch_size=CHUNK)


def _features_after(network, windows, hidden):
    """Returns what the head reads when `hidden` stands after the block."""
    return jnp.asarray(network.after(hidden, windows))


@jax.jit
def _drawn_scores(head, features, key):
    """Returns the gradient of `log q(v)` by each token's features, with v drawn from q."""

    def of_token(token):
        feature, key = token
        logits = product(feature, head.T)
        drawn = head[jax.random.categorical(key, logits)]
        return drawn - product(jax.nn.softmax(logits), head)

    keys = jax.random.split(key, len(features))
    return jax.lax.map(of_token, (features, keys), batch_size=CHUNK)


def _rows(windows: Windows):
    """Returns each token but padding, its place, and the next one of its window or -1."""
    # Unsigned tokens have no -1.
    tokens, segments, positions = (
        np.asarray(part, np.int64)
        for part in (windows.tokens, windows.segments, windows.positions)
    )
    following = np.full(tokens.shape, -1)
    following[:, :-1] = np.where(segments[:, 1:] == segments[:, :-1], tokens[:, 1:], -1)
    real = segments >= 0
    return tokens[real], positions[real], following[real]

"""What stands at the layers of a language model, and a model that is cut open at one of them, where
another stream may take the place of its own.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sae_gap.core import check_integer
from sae_gap.data import block_folder, mlp_folders
from sae_gap.lm import LanguageModel, Windows


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


def cut_open(model: LanguageModel, layer: int, *, mlp: bool = False) -> Network:
    """Cuts a model open after the block `layer`, counted from 0, or at the output of its MLP."""
    check_integer("layer", layer, least=0, most=model.num_blocks - 1)

    def stream(windows: Windows, stop: int) -> Array:
        return model.run_blocks(model.embed(windows), windows, 0, stop)

    def before(windows: Windows) -> Array:
        return stream(windows, layer + 1)

    def after(hidden: Array, windows: Windows) -> Array:
        end = model.run_blocks(hidden, windows, layer + 1, model.num_blocks)
        return model.features(end)

    def of_mlp(windows: Windows) -> tuple[Array, Array]:
        return model.run_mlp(stream(windows, layer), windows, layer)

    return Network(before, after, model.unembedding, of_mlp if mlp else None)


def capture(
    model: LanguageModel,
    windows: Windows,
    layers: Collection[int],
    mlps: Collection[int],
) -> Iterator[tuple[str, Float[Array, "rows length dim"]]]:
    """Gives the activations on windows by the names of their places, from the first block on:
    `block<L>`, the residual stream after block L, for layers, and `mlp<L>_in` and `mlp<L>_out`,
    what the MLP of block L reads and adds to the stream, for MLPs.
    """
    hidden = model.embed(windows)
    start = 0
    for layer in sorted({*layers, *mlps}):
        if layer in mlps:
            hidden = model.run_blocks(hidden, windows, start, layer)
            start = layer
            values = model.run_mlp(hidden, windows, layer)
            yield from zip(mlp_folders(layer), values, strict=True)
        if layer in layers:
            hidden = model.run_blocks(hidden, windows, start, layer + 1)
            start = layer + 1
            yield block_folder(layer), hidden

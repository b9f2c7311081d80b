"""Records the activations of a language model on documents, in files that are written on the way.

A recording is a folder of

  block<L>/NNNNN.npy   the residual stream after block L, counted from 0, a row for each token
  block<L>/NNNNN.documents.npy   the number of each row's document
  block<L>/NNNNN.digest          what tells whether its rows are damaged
  mlp<L>_in, mlp<L>_out          the same of what the MLP of block L reads, and adds to the stream
  tokens.npz           `tokens`, `documents` and `positions` of all rows, and the documents'
                       `names` and perhaps `topics`
  recording.json       what was recorded

`sae_gap.open_activations` reads block<L>. A shard of some 16,384 rows is written whole, its digest
last. A killed process loses its current shard; the next run goes on from there and writes the same
bytes.
"""

import functools
import io
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sae_gap.core import AnyPath, check_choice, check_integer
from sae_gap.data import Activations, open_activations
from sae_gap.lm import LM, Batch, Piece, Texts, batch_rows, cut, fill, pack
from sae_gap.runtime import progress
from sae_gap.storage import Folder, brief, digest

# The types that rows may have.
DTYPES = ("float16", "float32")
# What an MLP reads, and what it adds to the stream.
SIDES = ("in", "out")
# The hook points of what is recorded.
_HOOKS = {
    "block": "blocks.{}.hook_resid_post",
    "mlp_in": "model.layers.{}.mlp.input",
    "mlp_out": "blocks.{}.hook_mlp_out",
}
# Number of tokens in a full shard.
SHARD = 16_384
# Raised whenever the rows of the same recording change.
FORM = 2


class Recorded(NamedTuple):
    """A recording; arrays by row are in the order of the rows of activations.

    Attributes:
      folder: its folder.
      model: the model's name.
      identity: the model's `LM.identity`.
      context: the most tokens of a window.
      layers: recorded blocks, counted from 0.
      dtype: the type of the rows.
      tokens: the token of each row.
      documents: the number of each row's document, ascending.
      positions: the place of each row within its window.
      names: the names of the documents.
      topics: the topics of the documents, or None.
      mlps: blocks whose MLPs were recorded.
    """

    folder: Folder
    model: str
    identity: str
    context: int
    layers: tuple[int, ...]
    dtype: str
    tokens: Int[np.ndarray, " rows"]
    documents: Int[np.ndarray, " rows"]
    positions: Int[np.ndarray, " rows"]
    names: tuple[str, ...]
    topics: tuple[str, ...] | None = None
    mlps: tuple[int, ...] = ()

    def activations(self, layer: int) -> Activations:
        """Returns the residual stream after a block, after checking all digests.

        Raises:
          ValueError: the block was not recorded, or not to the end, or a file of rows is damaged.
        """
        return self._rows("block{}", layer, self.layers)

    def mlp(self, layer: int) -> tuple[Activations, Activations]:
        """Returns what the MLP of a block reads, and what it adds to the stream.

        Raises:
          ValueError: as `activations`.
        """
        return self._rows("mlp{}_in", layer, self.mlps), self._rows(
            "mlp{}_out", layer, self.mlps
        )

    def _rows(self, name, layer, known):
        name = name.format(layer)
        if layer not in known:
            told = ", ".join(map(str, known)) or "no block"
            raise ValueError(
                f"{name} is not in {self.folder}, but that of {told}; record it."
            )
        place = self.folder / name
        names = {*place.names()}
        found = open_activations(str(place)) if "00000.npy" in names else None
        if (
            not found
            or found.num_samples != len(self.tokens)
            or not {f"{file.stem}.digest" for file in found.files} <= names
        ):
            raise ValueError(
                f"the recording {self.folder} has not ended; run the same `record` again to go on."
            )
        for file in found.files:
            if digest([np.load(file)]).encode() != place.read(f"{file.stem}.digest"):
                raise _damaged(
                    f"{place}/{file.name}", "its rows are not those of its digest"
                )
        # The split into training and held-out rows draws by them.
        if found.documents is None or not np.array_equal(
            found.documents, self.documents
        ):
            raise _damaged(
                self.folder, f"the documents of {name} are not those of its tokens"
            )
        return found

    def require(self, lm: LM) -> None:
        """Raises a ValueError unless this model was recorded."""
        if lm.identity != self.identity:
            raise ValueError(
                f"{self.folder} is of another model than {lm.name}; give that of {self.model} as "
                "model."
            )

    def batches(self, documents: Sequence[int]) -> list[Batch]:
        """Returns the windows of some documents, as they were recorded."""
        starts = np.flatnonzero(np.diff(self.documents)) + 1
        wanted = {*documents}
        pieces = cut(np.split(self.tokens, starts), self.context)
        return [
            *pack([piece for piece in pieces if piece.document in wanted], self.context)
        ]


def record(
    lm: LM,
    texts: Texts,
    folder: AnyPath | Folder,
    layers: Sequence[int] = (10,),
    context: int = 256,
    dtype: str = "float16",
    tokens: int | None = None,
    seed: int = 0,
    mlps: Sequence[int] = (),
) -> Recorded:
    """Records the residual stream of a model on documents, in random order, and only one of equal
    texts.

    A shard, a batch and the model set the memory, not the length of the recording. The folder's
    shards of the same recording are kept, and layers may be added to it.

    Args:
      lm: the model.
      texts: the documents.
      folder: the folder of the recording, a path or the URL of a folder in a bucket.
      layers: the blocks whose outputs to record, counted from 0.
      context: number of tokens that the model sees at once.
      dtype: `float16`, which reaches to 65,504, or `float32`.
      tokens: the most to record: as many whole documents as fit; None takes all.
      seed: draws the order of the documents.
      mlps: the blocks whose MLPs to record, counted from 0, for transcoders.

    Returns:
      The recording.

    Raises:
      ValueError: an argument is out of range, the folder holds another recording, no document has
        tokens or fits, or an activation is too large for float16.
      OSError: the folder cannot be written to.
    """
    for layer in (*layers, *mlps):
        check_integer("a layer", layer, least=0, most=lm.model.num_blocks - 1)
    blocks = {*map(int, layers)}, {*map(int, mlps)}
    places = [f"block{layer}" for layer in blocks[0]]
    places += [f"mlp{layer}_{side}" for layer in blocks[1] for side in SIDES]
    check_integer("context", context, least=2, most=lm.model.context)
    check_choice("dtype", dtype, DTYPES)
    folder = Folder(folder)
    drawn = _draw(functools.partial(lm.tokenise, context=context), texts, tokens, seed)
    lists = list(drawn.values())
    pieces = cut(lists, context)
    lengths = list(map(len, lists))
    documents = np.repeat(np.arange(len(lists), dtype=np.int32), lengths)
    arrays = {
        "tokens": np.concatenate(lists),
        "documents": documents,
        "positions": _positions(documents, context),
        "names": np.array([texts.names[i] for i in drawn]),
    }
    if texts.topics is not None:
        arrays["topics"] = np.array([texts.topics[i] for i in drawn])
    about = {
        "form": FORM,
        "model": lm.name,
        "identity": lm.identity,
        "context": int(context),
        "dtype": dtype,
        "tokens": sum(lengths),
        "documents": len(lists),
        "text": _text(arrays),
    }
    about |= _agreed(folder, about, *blocks)
    there = {place: {*(folder / place).names()} for place in places}
    firsts = np.cumsum([0, *lengths])
    start = 0
    with progress.line(
        sum(lengths) / 1_000, "recorded", unit="thousand tokens"
    ) as line:
        for number, shard in enumerate(_shards(pieces, context)):
            stop = start + sum(len(piece.tokens) for piece in shard)
            missing = [
                place for place in places if not there[place].issuperset(_files(number))
            ]
            if missing:
                # Run through all requested blocks, even those already recorded: compiled pieces of
                # another length round differently.
                found = _run(
                    lm, shard, context, blocks, dtype, firsts - start, stop - start
                )
                if not folder.exists("recording.json"):
                    folder.write("tokens.npz", _bytes_of(np.savez, **arrays))
                folder.write("recording.json", json.dumps(about, indent=1).encode())
                for place in missing:
                    # The digest comes last: where it is, the rows and their documents are too.
                    contents = (
                        _bytes_of(np.save, documents[start:stop]),
                        _bytes_of(np.save, found[place]),
                        digest([found[place]]).encode(),
                    )
                    for name, content in zip(_files(number), contents, strict=True):
                        (folder / place).write(name, content)
            line.update((stop - start) / 1_000)
            start = stop
    return open_recording(folder)


def open_recording(folder: AnyPath | Folder) -> Recorded:
    """Opens a recording; activations are read on request.

    Raises:
      ValueError: there is no recording, or it is damaged.
    """
    folder = Folder(folder)
    if not folder.exists("recording.json"):
        raise ValueError(
            f"{folder} holds no recording.json; give a folder that record wrote."
        )
    return _read(folder)[1]


def origin_of(activations: AnyPath) -> dict[str, Any]:
    """Returns what an SAE's configuration tells of its activations if they are of a recording:
    model, hook point, context, number of tokens, and digest of the text; nothing for other
    activations.
    """
    parent, _, name = str(activations).rstrip("/").rpartition("/")
    folder = Folder(parent or ".")
    place = re.fullmatch(r"([a-z]+)(\d+)(_in|_out|)", name)
    if (
        not place
        or place[1] + place[3] not in _HOOKS
        or not folder.exists("recording.json")
    ):
        return {}
    about = json.loads(folder.read("recording.json"))
    return {
        "model_name": about["model"],
        "hook_name": _HOOKS[place[1] + place[3]].format(place[2]),
        "context_size": about["context"],
        "recorded_tokens": about["tokens"],
        "text": about["text"],
    }


def _damaged(place, fault):
    return ValueError(
        f"the recording {place} is damaged ({fault}); remove it and record again."
    )


def _read(folder):
    """Reads recording.json and the recording; raises a ValueError if it is damaged."""
    try:
        about = json.loads(folder.read("recording.json"))
        if about["form"] != FORM:
            raise ValueError(f"it is of form {about['form']}, not {FORM}")
        with np.load(io.BytesIO(folder.read("tokens.npz")), allow_pickle=False) as file:
            arrays = dict(file)
        windows = _positions(arrays["documents"], about["context"])
        if _text(arrays) != about["text"] or not np.array_equal(
            arrays["positions"], windows
        ):
            raise ValueError("tokens.npz is not what recording.json tells")
        named = {
            name: tuple(arrays.pop(name).tolist())
            for name in ("names", "topics")
            if name in arrays
        }
        told = {name: about[name] for name in ("model", "identity", "context", "dtype")}
        places = {name: tuple(about.get(name, ())) for name in ("layers", "mlps")}
        return about, Recorded(folder, **told | places | arrays | named)
    except Exception as error:
        raise _damaged(folder, brief(error)) from error


def _draw(tokenise, texts, tokens, seed):
    """Returns the tokens of documents in random order until the next does not fit; repeated texts
    are left out.
    """
    lists: dict[int, np.ndarray] = {}
    left = np.inf if tokens is None else tokens
    for i, numbers in texts.shuffled(tokenise, seed):
        left -= len(numbers)
        if left < 0 and not lists:
            raise ValueError(
                f"the first document, {texts.names[i]}, has {len(numbers)} tokens; raise tokens to "
                "as many."
            )
        if left < 0:
            return lists
        if len(numbers):
            lists[i] = numbers
    if not lists:
        raise ValueError("no document has a token; give documents with text.")
    return lists


def _positions(documents, context):
    """Returns the place of each row within its window."""
    firsts = np.searchsorted(documents, documents)
    return ((np.arange(len(documents)) - firsts) % context).astype(np.int32)


def _text(arrays):
    return digest(part for named in arrays.items() for part in named)


def _files(number):
    """Returns the file names of a shard in the folder of a block."""
    return f"{number:05}.documents.npy", f"{number:05}.npy", f"{number:05}.digest"


def _agreed(folder, about, layers, mlps):
    """Returns the places of a recording, joined with those in the folder; raises a ValueError if
    the folder holds another recording.
    """
    known = about
    if folder.exists("recording.json"):
        known, _ = _read(folder)
    elif any(re.match(r"block|mlp", name) for name in folder.folders()):
        raise ValueError(
            f"{folder} holds rows but no recording.json that says of what; remove them or choose "
            "another folder."
        )
    for name, value in about.items():
        if known.get(name) != value:
            raise ValueError(
                f"{folder} holds another recording, of {name} {known.get(name)}, not {value}; "
                "remove it or choose another folder."
            )
    places = {
        "layers": {*layers, *known.get("layers", ())},
        "mlps": {*mlps, *known.get("mlps", ())},
    }
    return {
        name: sorted(blocks)
        for name, blocks in places.items()
        if blocks or name == "layers"
    }


def _shards(pieces, context):
    """Gives windows in order, as many at a time as fit into whole batches of `SHARD` tokens."""
    rows = batch_rows(context)
    most = max(1, SHARD // (context * rows)) * rows
    shard: list[Piece] = []
    for piece in pieces:
        if len(shard) >= most and len(fill([*shard, piece], context)) > most:
            yield shard
            shard = []
        shard.append(piece)
    yield shard


def _run(lm, shard, context, blocks, dtype, firsts, num_rows):
    """Returns the rows of a shard at each place; `firsts` are the rows where documents begin,
    relative to the shard's first row.
    """
    found: dict[str, np.ndarray] = {}
    for batch in pack(shard, context):
        real = batch.documents >= 0
        rows = (firsts[batch.documents] + batch.places)[real]
        for place, hidden in _places(lm.model, batch.windows, *blocks):
            values = np.asarray(hidden)[real]
            # A comparison with NaN is false.
            if not (largest := np.abs(values).max()) <= np.finfo(dtype).max:
                mend = (
                    "record with dtype=float32"
                    if np.isfinite(largest)
                    else "give another model"
                )
                raise ValueError(
                    f"activations at {place} reach {largest:,.0f}, beyond {dtype}; {mend}."
                )
            held = found.setdefault(place, np.empty((num_rows, values.shape[1]), dtype))
            held[rows] = values
    return found


def _places(model, windows, layers, mlps):
    """Gives the activations at each place, from the first block on."""
    hidden = model.embed(windows)
    start = 0
    for layer in sorted(layers | mlps):
        if layer in mlps:
            hidden = model.run_blocks(hidden, windows, start, layer)
            start = layer
            names = (f"mlp{layer}_{side}" for side in SIDES)
            yield from zip(names, model.run_mlp(hidden, windows, layer), strict=True)
        if layer in layers:
            hidden = model.run_blocks(hidden, windows, start, layer + 1)
            start = layer + 1
            yield f"block{layer}", hidden


def _bytes_of(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()

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

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from sae_gap.core import AnyPath, brief, check_choice, check_integer
from sae_gap.data import (
    ABOUT,
    Activations,
    block_folder,
    mlp_folders,
    open_activations,
)
from sae_gap.lm import LM, Batch, Piece, Texts, batch_rows, cut, fill, pack
from sae_gap.lm.network import capture
from sae_gap.runtime import progress
from sae_gap.storage import Folder, digest

# The types that rows may have.
DTYPES = ("float16", "float32")
# The hook points of what is recorded.
_HOOKS = {
    "block{}": "blocks.{}.hook_resid_post",
    "mlp{}_in": "model.layers.{}.mlp.input",
    "mlp{}_out": "blocks.{}.hook_mlp_out",
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
        return self._rows(block_folder(layer), layer, self.layers)

    def mlp(self, layer: int) -> tuple[Activations, Activations]:
        """Returns what the MLP of a block reads, and what it adds to the stream.

        Raises:
          ValueError: as `activations`.
        """
        inputs, outputs = mlp_folders(layer)
        return (
            self._rows(inputs, layer, self.mlps),
            self._rows(outputs, layer, self.mlps),
        )

    def _rows(self, name: str, layer: int, blocks: tuple[int, ...]) -> Activations:
        """Opens the rows of a place, after a check of their number, digests and documents."""
        if layer not in blocks:
            recorded = ", ".join(map(str, blocks)) or "no block"
            raise ValueError(
                f"{name} is not in {self.folder}, but that of {recorded}; record it."
            )
        place = self.folder / name
        names = {*place.names()}
        rows = open_activations(str(place)) if "00000.npy" in names else None
        if (
            rows is None
            or rows.num_samples != len(self.tokens)
            or not {f"{file.stem}.digest" for file in rows.files} <= names
        ):
            raise ValueError(
                f"the recording {self.folder} has not ended; run the same `record` again to go on."
            )
        for file in rows.files:
            if digest([np.load(file)]).encode() != place.read(f"{file.stem}.digest"):
                raise _damaged(
                    f"{place}/{file.name}", "its rows are not those of its digest"
                )
        # The split into training and held-out rows draws by them.
        if rows.documents is None or not np.array_equal(rows.documents, self.documents):
            raise _damaged(
                self.folder, f"the documents of {name} are not those of its tokens"
            )
        return rows

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
        return list(
            pack([piece for piece in pieces if piece.document in wanted], self.context)
        )


class _Plan(NamedTuple):
    """What to record.

    Attributes:
      lm: the model.
      layers: blocks whose outputs to record.
      mlps: blocks whose MLPs to record.
      context: the most tokens of a window.
      dtype: the type of the rows.
    """

    lm: LM
    layers: set[int]
    mlps: set[int]
    context: int
    dtype: str

    def places(self) -> list[str]:
        """The names of the places, each a folder."""
        places = [block_folder(layer) for layer in self.layers]
        for layer in self.mlps:
            places += mlp_folders(layer)
        return places


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
    check_integer("context", context, least=2, most=lm.model.context)
    check_choice("dtype", dtype, DTYPES)
    folder = Folder(folder)
    plan = _Plan(lm, {*map(int, layers)}, {*map(int, mlps)}, int(context), dtype)
    tokenise = partial(lm.tokenise, context=context)
    drawn = _draw(tokenise, texts, tokens, seed)
    arrays = _arrays(texts, drawn, context)
    documents = arrays["documents"]
    about = {
        "form": FORM,
        "model": lm.name,
        "identity": lm.identity,
        "context": plan.context,
        "dtype": dtype,
        "tokens": len(documents),
        "documents": len(drawn),
        "text": _text(arrays),
    }
    about |= _agreed(folder, about, plan)
    there = {place: {*(folder / place).names()} for place in plan.places()}
    firsts = np.searchsorted(documents, np.arange(len(drawn)))
    start = 0
    with progress.line(
        len(documents) / 1_000, "recorded", unit="thousand tokens"
    ) as line:
        for number, shard in enumerate(_shards([*drawn.values()], context)):
            stop = start + sum(len(piece.tokens) for piece in shard)
            files = _files(number)
            missing = [place for place in there if not there[place].issuperset(files)]
            if missing:
                # Run through all requested blocks, even those already recorded: compiled pieces of
                # another length round differently.
                rows = _run(plan, shard, firsts - start, stop - start)
                if not folder.exists(ABOUT):
                    folder.write("tokens.npz", bytes_of(np.savez, **arrays))
                folder.write(ABOUT, json.dumps(about, indent=1).encode())
                for place in missing:
                    _write(folder / place, files, documents[start:stop], rows[place])
            line.update((stop - start) / 1_000)
            start = stop
    return open_recording(folder)


def open_recording(folder: AnyPath | Folder) -> Recorded:
    """Opens a recording; activations are read on request.

    Raises:
      ValueError: there is no recording, or it is damaged.
    """
    folder = Folder(folder)
    if not folder.exists(ABOUT):
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
    hook = _HOOKS.get(re.sub(r"\d+", "{}", name))
    if hook is None or not folder.exists(ABOUT):
        return {}
    about = json.loads(folder.read(ABOUT))
    return {
        "model_name": about["model"],
        "hook_name": hook.format(re.sub(r"\D", "", name)),
        "context_size": about["context"],
        "recorded_tokens": about["tokens"],
        "text": about["text"],
    }


def _damaged(place: Any, fault: str) -> ValueError:
    return ValueError(
        f"the recording {place} is damaged ({fault}); remove it and record again."
    )


def _read(folder: Folder) -> tuple[dict[str, Any], Recorded]:
    """Reads recording.json and the recording; raises a ValueError if it is damaged."""
    try:
        about = json.loads(folder.read(ABOUT))
        if about["form"] != FORM:
            raise ValueError(f"it is of form {about['form']}, not {FORM}")
        with np.load(BytesIO(folder.read("tokens.npz")), allow_pickle=False) as file:
            arrays = dict(file)
        positions = _positions(arrays["documents"], about["context"])
        if (
            not np.array_equal(arrays["positions"], positions)
            or _text(arrays) != about["text"]
        ):
            raise ValueError("tokens.npz is not what recording.json tells")
        fields = {
            name: about[name] for name in ("model", "identity", "context", "dtype")
        }
        for name in ("layers", "mlps"):
            fields[name] = tuple(about.get(name, ()))
        for name, array in arrays.items():
            by_document = name in ("names", "topics")
            fields[name] = tuple(array.tolist()) if by_document else array
        return about, Recorded(folder, **fields)
    except Exception as error:
        raise _damaged(folder, brief(error)) from error


def _draw(
    tokenise: Callable, texts: Texts, tokens: int | None, seed: int
) -> dict[int, np.ndarray]:
    """Returns the tokens of documents in random order until the next does not fit; repeated texts
    are left out.
    """
    lists: dict[int, np.ndarray] = {}
    left = np.inf if tokens is None else tokens
    for i, numbers in texts.shuffled(tokenise, seed):
        left -= len(numbers)
        if left < 0:
            if lists:
                return lists
            raise ValueError(
                f"the first document, {texts.names[i]}, has {len(numbers)} tokens; raise tokens to "
                "as many."
            )
        if len(numbers):
            lists[i] = numbers
    if not lists:
        raise ValueError("no document has a token; give documents with text.")
    return lists


def _arrays(
    texts: Texts, drawn: Mapping[int, np.ndarray], context: int
) -> dict[str, np.ndarray]:
    """The arrays of tokens.npz, of the documents that were drawn."""
    sizes = [len(tokens) for tokens in drawn.values()]
    documents = np.repeat(np.arange(len(drawn), dtype=np.int32), sizes)
    arrays = {
        "tokens": np.concatenate(list(drawn.values())),
        "documents": documents,
        "positions": _positions(documents, context),
        "names": np.array([texts.names[i] for i in drawn]),
    }
    if texts.topics is not None:
        arrays["topics"] = np.array([texts.topics[i] for i in drawn])
    return arrays


def _positions(documents: np.ndarray, context: int) -> np.ndarray:
    """Returns the place of each row within its window."""
    firsts = np.searchsorted(documents, documents)
    return ((np.arange(len(documents)) - firsts) % context).astype(np.int32)


def _text(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns a digest of the arrays of tokens.npz and their names."""
    return digest(part for named in arrays.items() for part in named)


def _files(number: int) -> tuple[str, str, str]:
    """Returns the names of the files of a shard in the folder of a place: documents, rows and
    digest.
    """
    return f"{number:05}.documents.npy", f"{number:05}.npy", f"{number:05}.digest"


def _write(
    place: Folder, files: tuple[str, str, str], documents: np.ndarray, rows: np.ndarray
) -> None:
    """Writes a shard. The digest comes last: where it is, the rows and their documents are too."""
    of_documents, of_rows, of_digest = files
    place.write(of_documents, bytes_of(np.save, documents))
    place.write(of_rows, bytes_of(np.save, rows))
    place.write(of_digest, digest([rows]).encode())


def _agreed(
    folder: Folder, about: Mapping[str, Any], plan: _Plan
) -> dict[str, list[int]]:
    """Returns the blocks of a plan by the names of recording.json, joined with those in the folder;
    raises a ValueError if the folder holds another recording.
    """
    known = about
    if folder.exists(ABOUT):
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
    agreed = {"layers": sorted({*plan.layers, *known.get("layers", ())})}
    mlps = sorted({*plan.mlps, *known.get("mlps", ())})
    if mlps:
        agreed["mlps"] = mlps
    return agreed


def _shards(token_lists: Sequence[np.ndarray], context: int) -> Iterator[list[Piece]]:
    """Gives windows in order, as many at a time as fit into whole batches of `SHARD` tokens."""
    rows = batch_rows(context)
    most = max(1, SHARD // (context * rows)) * rows
    shard: list[Piece] = []
    for piece in cut(token_lists, context):
        if len(shard) >= most and len(fill([*shard, piece], context)) > most:
            yield shard
            shard = []
        shard.append(piece)
    yield shard


def _run(
    plan: _Plan, shard: Sequence[Piece], firsts: np.ndarray, num_rows: int
) -> dict[str, np.ndarray]:
    """Returns the rows of a shard at each place; `firsts` are the rows where documents begin,
    relative to the shard's first row.
    """
    rows: dict[str, np.ndarray] = {}
    for batch in pack(shard, plan.context):
        real = batch.documents >= 0
        numbers = (firsts[batch.documents] + batch.places)[real]
        places = capture(plan.lm.model, batch.windows, plan.layers, plan.mlps)
        for place, hidden in places:
            values = np.asarray(hidden)[real]
            _check_reach(place, values, plan.dtype)
            if place not in rows:
                rows[place] = np.empty((num_rows, values.shape[1]), plan.dtype)
            rows[place][numbers] = values
    return rows


def _check_reach(place: str, values: np.ndarray, dtype: str) -> None:
    largest = np.abs(values).max()
    # A comparison with NaN is false.
    if not largest <= np.finfo(dtype).max:
        mend = "give another model"
        if np.isfinite(largest):
            mend = "record with dtype=float32"
        raise ValueError(
            f"activations at {place} reach {largest:,.0f}, beyond {dtype}; {mend}."
        )


def bytes_of(save: Callable, *arrays: ArrayLike, **named: ArrayLike) -> bytes:
    """The content of a file that `np.save` or `np.savez` writes."""
    file = BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()

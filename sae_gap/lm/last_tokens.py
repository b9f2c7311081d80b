"""The residual stream of a language model at the last token of a text, for probes of whole
texts.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sae_gap.core.checks import check_integer
from sae_gap.lm.pretrained import LM
from sae_gap.lm.windows import cut, pack


def last_tokens(
    lm: LM, texts: Sequence[str], layer: int, context: int = 128
) -> Float[np.ndarray, "texts dim"]:
    """Returns the residual stream after a block at the last token of each text.

    Args:
      lm: the model.
      texts: the texts, of at least one token each.
      layer: the block, counted from 0.
      context: tokens to run: the last of each text, after the tokens that start every text.

    Returns:
      A row for each text, (texts, dim), float32.

    Raises:
      ValueError: a text has no token, or there is no such block.
    """
    check_integer("layer", layer, least=0, most=lm.model.num_blocks - 1)
    start = lm.start
    check_integer("context", context, least=start + 1)
    lists = [
        np.concatenate([tokens[:start], tokens[start:][start - context :]])
        for tokens in lm.tokenise(texts)
    ]
    lengths = np.array([len(tokens) for tokens in lists])
    if lengths.min(initial=start + 1) == start:
        raise ValueError(f"text {int(np.argmin(lengths))} has no token; leave it out.")
    model, found = lm.model, np.empty((len(lists), lm.model.dim), np.float32)
    for batch in pack(cut(lists, context), context):
        begun = model.embed(batch.windows)
        hidden = np.asarray(model.run_blocks(begun, batch.windows, 0, layer + 1))
        ends = (batch.documents >= 0) & (batch.places == lengths[batch.documents] - 1)
        found[batch.documents[ends]] = hidden[ends]
    return found

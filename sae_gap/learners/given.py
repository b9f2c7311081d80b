"""A given model as a learner: an SAE of any library, a decoder alone, or a saved
result of `learn`.
"""

import re
from typing import Any

import numpy as np
from equinox import field
from jax import random, tree

from sae_gap.core import Model, Split, class_name, describe
from sae_gap.encoders import Encoder, Own, encode
from sae_gap.learners import Learner
from sae_gap.storage import digest

# Without rows, a function that encodes is identified by its codes on so many signals, of scales
# between these powers of ten, so that its thresholds are crossed.
ASKED = 64
SCALES = (-2, 5)


class Held:
    """A model, identified by a digest of its numbers.

    Args:
      model: the model.
      split: samples that it is to code; a function is identified by its codes on them.
    """

    def __init__(self, model: Model, split: Split | None = None):
        self.model = model
        structure = f"{tree.structure(model)} {describe(model.encode)}"
        told = [*tree.leaves(model), re.sub(r" at 0x[0-9a-f]+", "", structure)]
        own: Any = model.encode
        if not (own is None or class_name(type(own)).startswith("sae_gap.")):
            # Another function may share its name, but not its codes.
            read = (
                model.num_inputs
                if getattr(own, "reads_inputs", True)
                else len(model.bias)
            )
            scales = np.logspace(*SCALES, ASKED, dtype=np.float32)[:, None]
            rows: Any = scales * random.normal(random.key(0), (ASKED, read))
            if split is not None:
                rows = split.read_by(model)
            told.append(
                encode(own, model, rows)
                if isinstance(own, Encoder)
                else own(model, rows)
            )
        self.digest = digest(told)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Given(Learner):
    """Learns nothing: it returns the given model for any task.

    A row's key has the digest of the model, not its name, which is a label.

    Args:
      held: the model.
      called: the name of its dictionary in rows and figures.
      kind: "sae", "dictionary" for a decoder alone, or another word.
      signs: whether codes on the dictionary may be negative.
    """

    listed = False
    rank = 0

    held: Held = field(static=True)
    called: str = field(static=True)
    kind: str = field(static=True, default="sae")
    signs: bool = field(static=True, default=False)

    @property
    def name(self):  # type: ignore[override]
        return self.called

    @property
    def family(self):  # type: ignore[override]
        return self.kind

    @property
    def signed(self):
        return self.signs

    @property
    def encode(self):
        own = self.held.model.encode
        return None if own is None else Own(own)

    @property
    def ready(self):
        return self.held.model

    def described(self) -> dict[str, Any]:
        """The class and the digest of the model, which decide its rows."""
        return {"class": class_name(type(self)), "model": self.held.digest}

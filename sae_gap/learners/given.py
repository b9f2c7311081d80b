"""A model that is given, where a study asks for one to learn: an SAE of any library, a decoder
alone, the vocabulary, what `learn` saved.
"""

import re
from typing import Any

import equinox as eqx
import jax

from sae_gap.core.identity import class_name, describe
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Encoder, encode
from sae_gap.encoders.own import Own
from sae_gap.learners.learner import Learner
from sae_gap.storage.results import digest

# Signals on which a function in the place of an encoder is told from others.
ASKED = 64


class Held:
    """A model, told from others by a digest of its numbers."""

    def __init__(self, model: Model):
        self.model = model
        structure = f"{jax.tree.structure(model)} {describe(model.encode)}"
        told = [*jax.tree.leaves(model), re.sub(r" at 0x[0-9a-f]+", "", structure)]
        known = model.encode is None or class_name(type(model.encode)).startswith("sae_gap.")
        if not known:
            # Another function may have its name: its codes tell it.
            signals = jax.random.normal(jax.random.key(0), (ASKED, len(model.bias)))
            own: Any = model.encode
            told.append(
                encode(own, model, signals) if isinstance(own, Encoder) else own(model, signals)
            )
        self.digest = digest(told)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Given(Learner):
    """Learns nothing: its model is the one that is given, whatever the task.

    A row's key has the digest of the model and not its name, which is a label.

    Args:
      held: the model.
      called: what rows and figures call its dictionary.
      kind: "sae", "dictionary" of a decoder alone, or a word of one's own.
      signs: whether codes on the dictionary may be negative.
    """

    listed = False
    rank = 0

    held: Held = eqx.field(static=True)
    called: str = eqx.field(static=True)
    kind: str = eqx.field(static=True, default="sae")
    signs: bool = eqx.field(static=True, default=False)

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

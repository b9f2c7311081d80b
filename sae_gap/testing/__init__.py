"""Checks that every encoder, learner, metric and file of an SAE passes, for whoever adds one.

    from sae_gap import testing

    testing.check_encoder(SquaredReLU())

A check that fails raises an AssertionError whose sentence names the property and the mend.
"""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)

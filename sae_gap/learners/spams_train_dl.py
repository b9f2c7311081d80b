"""Online dictionary learning by SPAMS."""

import numpy as np

from sae_gap.core import option
from sae_gap.learners import Peer


class SpamsTrainDL(Peer):
    """Online dictionary learning by SPAMS: exact codes by LARS, then block coordinate descent on
    the dictionary.

    References:
      Mairal, Bach, Ponce & Sapiro (2010), "Online learning for matrix factorization and sparse
      coding", JMLR 11.
    """

    name = "spams"
    label = "SPAMS"
    colour = "#117733"
    rank = 1

    num_steps: int = option(default=5_000, kw_only=True)

    module = "spams"

    def dictionary(self, signals, start, rng):
        # Mode 2 is ½‖y - D z‖² + λ‖z‖₁, samples are columns, and numThreads is by default every
        # core.
        return self.library().trainDL(
            np.asfortranarray(signals.T),
            D=np.asfortranarray(start),
            mode=2,
            posAlpha=True,
            numThreads=1,
            verbose=False,
            lambda1=self.lam,
            iter=self.num_steps,
            batchsize=self.batch_size,
        )

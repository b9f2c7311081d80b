"""Greedy k-sparse coding on a given dictionary: orthogonal matching pursuit, and gradient pursuit,
which approximates it.
"""

from sae_gap.core import Coded, option
from sae_gap.encoders import Inferring, keep_nans, on_unit_atoms
from sae_gap.solvers import gradient_pursuit, orthogonal_matching_pursuit


class OMP(Inferring):
    """k greedy steps, each with the atom of largest |correlation| and a least-squares fit of all
    atoms chosen so far.

    With `nonneg` each step takes the atom of largest correlation, and codes that end negative are
    set to zero.

    Args:
      k: atoms in each code, at most input_dim.
      nonneg: whether codes are non-negative.

    References:
      Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit", Asilomar.
    """

    label = "OMP"
    colour = "#882255"
    rank = 13

    k: int = option(default=10)
    nonneg: bool = option(default=False)

    @property
    def signed(self):
        return not self.nonneg

    def flops(self, input_dim, num_latents):
        """Step i correlates all atoms with the residual, and one atom twice with i earlier ones."""
        return sum(2 * input_dim * (num_latents + 4 * i) for i in range(self.k))

    def infer(self, model, signals, begun=None):
        """Returns the codes, outside of `jit`, so that a CPU takes its own path."""
        target, atoms, norms = on_unit_atoms(model, signals)
        codes = orthogonal_matching_pursuit(target, atoms, self.k, nonneg=self.nonneg)
        return Coded(keep_nans(target, codes.clip(0) if self.nonneg else codes) / norms)


class GradientPursuit(OMP):
    """OMP with a step of steepest descent for each least-squares fit: it takes k products with the
    dictionary and solves no equations. Inference-time optimisation codes SAEs this way.

    With `nonneg` codes are clipped at zero after each step.

    Args:
      k: atoms in each code, at most.
      nonneg: whether codes are non-negative.

    References:
      Blumensath & Davies (2008), "Gradient pursuits", IEEE Trans. Signal Processing 56(6).
      Smith (2024), "Replacing SAE encoders with inference-time optimisation".
    """

    name = "gradient_pursuit"
    label = "gradient pursuit"
    colour = "#44AA99"

    def flops(self, input_dim, num_latents):
        """Step i correlates all atoms with the residual, and has two products with i atoms."""
        return sum(2 * input_dim * (num_latents + 2 * i) for i in range(1, self.k + 1))

    def __call__(self, model, signals):
        target, atoms, norms = on_unit_atoms(model, signals)
        return gradient_pursuit(target, atoms.T, self.k, nonneg=self.nonneg) / norms

    def infer(self, model, signals, begun=None):
        return Coded(self(model, signals))

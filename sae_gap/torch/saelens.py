"""Registers the screened pursuit with SAELens 6, to load the output of `save` and `save_sae`:

`import sae_gap.torch.saelens`, and `sae_lens.SAE.load_from_disk("my_sae")` has the suite's codes.
"""

from dataclasses import dataclass

import torch
from sae_lens.registry import register_sae_class
from sae_lens.saes.sae import SAE, SAEConfig
from torch import Tensor, nn

from sae_gap.core import PURSUIT
from sae_gap.torch.pursuit import mean_length, pursuit_codes, pursuit_options


@dataclass
class PursuitConfig(SAEConfig):
    """SAELens's entries, and those of `sae_gap.torch.SAE`."""

    k: int = 10
    breadth: int = 2
    screens: int = 2
    pruned: bool = False

    @classmethod
    def architecture(cls) -> str:
        """The name in configurations."""
        return PURSUIT


class PursuitSAE(SAE[PursuitConfig]):
    """SAELens's SAE with the codes of `sae_gap.torch.pursuit_codes`."""

    @property
    def W_enc(self) -> Tensor:  # noqa: N802
        """The transposed dictionary, which SAELens reports on; no code depends on it."""
        return self.W_dec.T

    def initialize_weights(self) -> None:
        """Allocates the parameters that a file holds."""
        like = {"dtype": self.dtype, "device": self.device}
        self.W_dec = nn.Parameter(torch.zeros(self.cfg.d_sae, self.cfg.d_in, **like))
        self.b_dec = nn.Parameter(torch.zeros(self.cfg.d_in, **like))
        self.register_buffer(
            "threshold", torch.zeros((), **like) if self.cfg.pruned else None
        )

    def encode(self, x: Tensor) -> Tensor:
        """The codes, in units of W_dec."""
        codes = pursuit_codes(
            self.process_sae_in(x), self.W_dec, **pursuit_options(self)
        )
        return self.hook_sae_acts_post(codes)

    def decode(self, feature_acts: Tensor) -> Tensor:
        """`z W_dec + b_dec`, in units of the activations."""
        bias = self.b_dec * self.cfg.apply_b_dec_to_input
        decoded = self.hook_sae_recons(feature_acts @ self.W_dec + bias)
        decoded = self.run_time_activation_norm_fn_out(decoded)
        return self.reshape_fn_out(decoded, self.d_head)

    @torch.no_grad()
    def fold_and_get_W_dec_norm(self) -> Tensor:  # noqa: N802
        """Moves the lengths of the atoms into the codes, and returns them."""
        lengths = self.get_W_dec_norm()
        if self.threshold is not None:
            self.threshold *= mean_length(self.W_dec)
        self.W_dec.data /= lengths[:, None]
        return lengths


register_sae_class(PURSUIT, PursuitSAE, PursuitConfig)

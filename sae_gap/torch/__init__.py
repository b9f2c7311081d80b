"""SAEs in PyTorch, with their own codes or those of a screened pursuit; imports no JAX.

The page of `sae_gap/saes` has an example, and the hooks of TransformerLens and transformers.
`import sae_gap.torch.saelens` registers the pursuit with SAELens.
"""

from sae_gap.torch.module import SAE
from sae_gap.torch.pursuit import pursuit_codes

__all__ = ["SAE", "pursuit_codes"]

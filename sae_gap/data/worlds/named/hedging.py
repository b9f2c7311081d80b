"""A parent, its child, and a dictionary of one latent, which absorbs some of the child.

After Chanin, Dulka & Garriga-Alonso (2025), "Feature hedging: correlated features break narrow
sparse autoencoders", arXiv:2505.11756.
"""

from sae_gap.data import NamedWorld, parent_and_child

HEDGING = NamedWorld("hedging", lambda n: parent_and_child(n) | {"width": 1})

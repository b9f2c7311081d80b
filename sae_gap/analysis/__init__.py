"""What rows of results say: means over seeds, the parts of a loss, verdicts, tables, and the
published numbers beside ours. Nothing here needs JAX or matplotlib.
"""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)

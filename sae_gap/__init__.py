"""Is it the encoder or the dictionary? Certified benchmarks of the amortisation gap of sparse
autoencoders.

The public names are loaded when first used, so that rows can be read and tabulated without loading
JAX. The stub `__init__.pyi` lists them.
"""

from sae_gap.core.faces import attach

__version__ = "0.2.0"

__getattr__, __dir__ = attach(__name__)
__all__ = [*__dir__(), "__version__"]

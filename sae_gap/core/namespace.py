"""Functions for arrays of NumPy, of JAX and tensors of PyTorch alike."""

import sys
from typing import Any


def namespace(array: Any) -> Any:
    """Returns the module whose functions take an array. PyTorch's tensors do not name theirs."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    return sys.modules["torch"]

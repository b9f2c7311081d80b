"""The studies, one file each: a file that is dropped in is found by its `BENCH`, and runs by
`sae-gap NAME`.
"""

from typing import Any

from sae_gap.core.registry import modules


def found() -> dict[str, Any]:
    """Every study by its name."""
    return {
        module.BENCH.name: module.BENCH for module in modules(__name__) if hasattr(module, "BENCH")
    }

"""The studies, one file each: the `BENCH` of a file in this folder makes it a study, which runs by
`sae-gap NAME`.
"""

from typing import Any

from sae_gap.core import modules


def found() -> dict[str, Any]:
    """Every study by its name."""
    return {
        module.BENCH.name: module.BENCH
        for module in modules(__name__)
        if hasattr(module, "BENCH")
    }

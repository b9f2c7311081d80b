"""A study of seconds that tests of runs share: two seeds, four methods, three learners."""

from sae_gap import Method, Setting, Study
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.linear import Linear
from sae_gap.encoders.topk import TopK
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

SAE = SparseAutoencoder(encoder=TopK(3), num_steps=2)
METHODS = (
    Method("linear_probe", "probe", LinearProbe(), Linear()),
    Method("sae", "sae", SAE, TopK(3)),
    Method("frozen", "frozen", SAE, Lasso()),
    Method("oracle", "oracle", Oracle(), Lasso()),
)
NAMES = [method.name for method in METHODS]
SETTING = Setting(20, 3, 200)


def make(*sources, methods=METHODS, **options):
    return Study("tiny", sources or (SETTING, Setting(20, 3, 200, seed=1)), lambda _: methods, **options)


def timeless(rows, *others):
    """Rows without what no two runs share."""
    return [
        {name: value for name, value in row.items() if not name.endswith("_seconds") and name not in others} for row in rows
    ]

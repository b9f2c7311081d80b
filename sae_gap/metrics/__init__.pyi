# The names that files import from here, and where each is defined.

from sae_gap.metrics.atom_statistics import agreement as agreement
from sae_gap.metrics.atom_statistics import describe_atoms as describe_atoms
from sae_gap.metrics.classification import LogisticProbe as LogisticProbe
from sae_gap.metrics.classification import fit_logistic as fit_logistic
from sae_gap.metrics.classification import roc_auc as roc_auc
from sae_gap.metrics.cost import cost_at as cost_at
from sae_gap.metrics.cost import processor_time as processor_time
from sae_gap.metrics.definitions import LIBRARIES as LIBRARIES
from sae_gap.metrics.definitions import explained as explained
from sae_gap.metrics.definitions import fvu as fvu
from sae_gap.metrics.definitions import spread as spread
from sae_gap.metrics.dictionary import atom_scores as atom_scores
from sae_gap.metrics.dictionary import dictionary_recovery as dictionary_recovery
from sae_gap.metrics.dictionary import groups_of as groups_of
from sae_gap.metrics.metric import SCORED as SCORED
from sae_gap.metrics.metric import Inferred as Inferred
from sae_gap.metrics.metric import Metric as Metric
from sae_gap.metrics.probes import SCORES as SCORES
from sae_gap.metrics.reconstruction import CHANCES as CHANCES
from sae_gap.metrics.recovery import support_recovery as support_recovery
from sae_gap.metrics.supports import Overlap as Overlap
from sae_gap.metrics.supports import cuts as cuts
from sae_gap.metrics.supports import fires as fires

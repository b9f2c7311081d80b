# The names that files import from here, and where each is defined.

from sae_gap.testing.demand import Demand as Demand
from sae_gap.testing.demand import close as close
from sae_gap.testing.demand import demand_of as demand_of
from sae_gap.testing.encoders import check_encoder as check_encoder
from sae_gap.testing.learners import check_learner as check_learner
from sae_gap.testing.metrics import check_metric as check_metric
from sae_gap.testing.sae_formats import check_read as check_read
from sae_gap.testing.sae_formats import check_sae_format as check_sae_format

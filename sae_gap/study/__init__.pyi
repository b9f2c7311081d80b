# The names that files import from here, and where each is defined.

from sae_gap.study.fitting import Fit as Fit
from sae_gap.study.fitting import Fitted as Fitted
from sae_gap.study.fitting import as_key as as_key
from sae_gap.study.fitting import at_once as at_once
from sae_gap.study.fitting import blank_model as blank_model
from sae_gap.study.fitting import fit as fit
from sae_gap.study.fitting import given_base as given_base
from sae_gap.study.fitting import run_loop as run_loop
from sae_gap.study.inference import Inference as Inference
from sae_gap.study.models import Models as Models
from sae_gap.study.runner import chain as chain
from sae_gap.study.runner import run as run
from sae_gap.study.scoring import score as score
from sae_gap.study.stream import fit_stream as fit_stream
from sae_gap.study.study import PROTOCOLS as PROTOCOLS
from sae_gap.study.study import Job as Job
from sae_gap.study.study import Line as Line
from sae_gap.study.study import Method as Method
from sae_gap.study.study import Scalar as Scalar
from sae_gap.study.study import Stored as Stored
from sae_gap.study.study import Study as Study
from sae_gap.study.study import jobs as jobs

# The names that files import from here, and where each is defined.

from sae_gap.runtime.cores import LOOPS as LOOPS
from sae_gap.runtime.cores import on_cores as on_cores
from sae_gap.runtime.cores import one_blas_thread as one_blas_thread
from sae_gap.runtime.cores import one_core as one_core
from sae_gap.runtime.sharding import SAMPLES as SAMPLES
from sae_gap.runtime.sharding import check_mesh as check_mesh
from sae_gap.runtime.sharding import constrain as constrain
from sae_gap.runtime.sharding import in_batches as in_batches
from sae_gap.runtime.sharding import num_parts as num_parts

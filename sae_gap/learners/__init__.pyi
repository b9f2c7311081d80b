# The names that files import from here, and where each is defined.

from sae_gap.learners.amortised import Among as Among
from sae_gap.learners.amortised import Amortised as Amortised
from sae_gap.learners.amortised import Lista as Lista
from sae_gap.learners.baselines import PCA as PCA
from sae_gap.learners.baselines import LinearProbe as LinearProbe
from sae_gap.learners.baselines import Oracle as Oracle
from sae_gap.learners.baselines import Random as Random
from sae_gap.learners.baselines import Raw as Raw
from sae_gap.learners.baselines import Samples as Samples
from sae_gap.learners.baselines import Surgery as Surgery
from sae_gap.learners.dl_fista import DLFista as DLFista
from sae_gap.learners.given import Given as Given
from sae_gap.learners.given import Held as Held
from sae_gap.learners.learner import HostLearner as HostLearner
from sae_gap.learners.learner import Learner as Learner
from sae_gap.learners.learner import base_of as base_of
from sae_gap.learners.learner import batches as batches
from sae_gap.learners.learner import live_dims as live_dims
from sae_gap.learners.learner import live_share as live_share
from sae_gap.learners.learner import random_atoms as random_atoms
from sae_gap.learners.learner import takes_steps as takes_steps
from sae_gap.learners.online.cooccurrence import LEAST_USES as LEAST_USES
from sae_gap.learners.online.cooccurrence import PARTNERS as PARTNERS
from sae_gap.learners.online.cooccurrence import Cooccurrence as Cooccurrence
from sae_gap.learners.online.cooccurrence import includes as includes
from sae_gap.learners.online.cooccurrence import least_share as least_share
from sae_gap.learners.online.cooccurrence import mean_code as mean_code
from sae_gap.learners.online.cooccurrence import parents as parents
from sae_gap.learners.online.cooccurrence import with_partner as with_partner
from sae_gap.learners.online.decorrelation import coherent_cosine as coherent_cosine
from sae_gap.learners.online.decorrelation import decorrelate_atoms as decorrelate_atoms
from sae_gap.learners.online.decorrelation import (
    decorrelate_children as decorrelate_children,
)
from sae_gap.learners.online.families import Families as Families
from sae_gap.learners.online.families import FamiliesState as FamiliesState
from sae_gap.learners.online.gradient_sums import total_visits as total_visits
from sae_gap.learners.online.online_dictionary import (
    OnlineDictionary as OnlineDictionary,
)
from sae_gap.learners.online.online_dictionary import OnlineState as OnlineState
from sae_gap.learners.online.online_dictionary import Pruned as Pruned
from sae_gap.learners.peers import Peer as Peer
from sae_gap.learners.peers import SklearnMiniBatch as SklearnMiniBatch
from sae_gap.learners.peers import SpamsTrainDL as SpamsTrainDL
from sae_gap.learners.softplus_adam import SoftplusAdam as SoftplusAdam
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder as SparseAutoencoder
from sae_gap.learners.sparse_autoencoder import Steering as Steering
from sae_gap.learners.sparse_autoencoder import few as few
from sae_gap.learners.sparse_autoencoder import unscaled as unscaled
from sae_gap.learners.sparse_transcoder import SparseTranscoder as SparseTranscoder

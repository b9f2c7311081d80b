# The names that other folders take from here, and where each is defined.

from sae_gap.learners.amortised import Among as Among
from sae_gap.learners.amortised import Amortised as Amortised
from sae_gap.learners.amortised import Lista as Lista
from sae_gap.learners.baselines import PCA as PCA
from sae_gap.learners.baselines import Random as Random
from sae_gap.learners.baselines import Raw as Raw
from sae_gap.learners.baselines import Samples as Samples
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
from sae_gap.learners.online.cooccurrence import count as count
from sae_gap.learners.online.cooccurrence import drop_atoms as drop_atoms
from sae_gap.learners.online.cooccurrence import energy_product as energy_product
from sae_gap.learners.online.cooccurrence import includes as includes
from sae_gap.learners.online.cooccurrence import least_share as least_share
from sae_gap.learners.online.cooccurrence import mean_code as mean_code
from sae_gap.learners.online.cooccurrence import parents as parents
from sae_gap.learners.online.cooccurrence import uses_of as uses_of
from sae_gap.learners.online.cooccurrence import with_partner as with_partner
from sae_gap.learners.online.decorrelation import coherent_cosine as coherent_cosine
from sae_gap.learners.online.decorrelation import decorrelate_atoms as decorrelate_atoms
from sae_gap.learners.online.decorrelation import decorrelate_children as decorrelate_children
from sae_gap.learners.online.families import Families as Families
from sae_gap.learners.online.families import FamiliesState as FamiliesState
from sae_gap.learners.online.family.add_missing_parents import (
    add_missing_parents as add_missing_parents,
)
from sae_gap.learners.online.family.atoms import BATCH as BATCH
from sae_gap.learners.online.family.atoms import LEAST_REST as LEAST_REST
from sae_gap.learners.online.family.atoms import MEMBERS as MEMBERS
from sae_gap.learners.online.family.atoms import NEIGHBOURS as NEIGHBOURS
from sae_gap.learners.online.family.atoms import Atoms as Atoms
from sae_gap.learners.online.family.atoms import alike_pairs as alike_pairs
from sae_gap.learners.online.family.atoms import common_factor as common_factor
from sae_gap.learners.online.family.atoms import idle_atoms as idle_atoms
from sae_gap.learners.online.family.atoms import idle_energy as idle_energy
from sae_gap.learners.online.family.atoms import members_of as members_of
from sae_gap.learners.online.family.atoms import nearest as nearest
from sae_gap.learners.online.family.atoms import unit_columns as unit_columns
from sae_gap.learners.online.family.atoms import usual_energy as usual_energy
from sae_gap.learners.online.family.part_from_parents import part_from_parents as part_from_parents
from sae_gap.learners.online.family.split_merged_parents import (
    split_merged_parents as split_merged_parents,
)
from sae_gap.learners.online.family.turn_pairs import DIFFER as DIFFER
from sae_gap.learners.online.family.turn_pairs import is_short as is_short
from sae_gap.learners.online.family.turn_pairs import turn_pairs as turn_pairs
from sae_gap.learners.online.gradient_sums import GradientSums as GradientSums
from sae_gap.learners.online.gradient_sums import num_visited as num_visited
from sae_gap.learners.online.gradient_sums import total_visits as total_visits
from sae_gap.learners.online.online_dictionary import OnlineDictionary as OnlineDictionary
from sae_gap.learners.online.online_dictionary import OnlineState as OnlineState
from sae_gap.learners.online.pruned import Pruned as Pruned
from sae_gap.learners.online.renewal import Seeds as Seeds
from sae_gap.learners.oracle import Oracle as Oracle
from sae_gap.learners.peer import Peer as Peer
from sae_gap.learners.probe import LinearProbe as LinearProbe
from sae_gap.learners.sklearn_mini_batch import SklearnMiniBatch as SklearnMiniBatch
from sae_gap.learners.softplus_adam import SoftplusAdam as SoftplusAdam
from sae_gap.learners.spams_train_dl import SpamsTrainDL as SpamsTrainDL
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder as SparseAutoencoder
from sae_gap.learners.sparse_autoencoder import Steering as Steering
from sae_gap.learners.sparse_autoencoder import few as few
from sae_gap.learners.sparse_autoencoder import unscaled as unscaled
from sae_gap.learners.sparse_transcoder import SparseTranscoder as SparseTranscoder
from sae_gap.learners.surgery import Surgery as Surgery

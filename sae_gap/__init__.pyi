# The public names of the package and where each is defined.

from sae_gap.core.matching import match_atoms as match_atoms
from sae_gap.core.model import Model as Model
from sae_gap.core.solution import Solution as Solution
from sae_gap.core.task import Split as Split
from sae_gap.core.task import Task as Task
from sae_gap.data import World as World
from sae_gap.data import WorldStream as WorldStream
from sae_gap.data import open_activations as open_activations
from sae_gap.data import published_world as published_world
from sae_gap.data import save_activations as save_activations
from sae_gap.data.paper import Setting as Setting
from sae_gap.data.recording import Recording as Recording
from sae_gap.data.recording import load as load
from sae_gap.data.source import draw as draw
from sae_gap.dictionaries.learn import dictionary as dictionary
from sae_gap.dictionaries.learn import learn as learn
from sae_gap.dictionaries.learned import LearnedDictionary as LearnedDictionary
from sae_gap.health.check import check as check
from sae_gap.lm.downstream import Downstream as Downstream
from sae_gap.lm.network import Network as Network
from sae_gap.metrics.atom_statistics import agreement as agreement
from sae_gap.metrics.definitions import fvu as fvu
from sae_gap.metrics.gap import amortisation_gap as amortisation_gap
from sae_gap.metrics.recovery import mcc as mcc
from sae_gap.metrics.recovery import mcc_paper as mcc_paper
from sae_gap.saes.loaded_sae import SAE as SAE
from sae_gap.saes.loaded_sae import load_sae as load_sae
from sae_gap.saes.save import save_sae as save_sae
from sae_gap.solvers import match_l0 as match_l0
from sae_gap.solvers import sparse_code as sparse_code
from sae_gap.storage.store import Store as Store
from sae_gap.study.fitting import fit as fit
from sae_gap.study.models import Models as Models
from sae_gap.study.runner import run as run
from sae_gap.study.stream import fit_stream as fit_stream
from sae_gap.study.study import Method as Method
from sae_gap.study.study import Study as Study

__version__: str

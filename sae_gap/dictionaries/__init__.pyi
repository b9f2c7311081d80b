# The names that other folders take from here, and where each is defined.

from sae_gap.dictionaries.learned import SCORED as SCORED
from sae_gap.dictionaries.learned import LearnedDictionary as LearnedDictionary
from sae_gap.dictionaries.learned import check_sparse as check_sparse
from sae_gap.dictionaries.rows import Rows as Rows
from sae_gap.dictionaries.rows import open_pair as open_pair
from sae_gap.dictionaries.rows import screened as screened
from sae_gap.dictionaries.training import fit_rows as fit_rows
from sae_gap.dictionaries.training import fit_signals as fit_signals

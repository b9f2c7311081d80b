# The names that files import from here, and where each is defined.

from sae_gap.dictionaries.learned import SCORED as SCORED
from sae_gap.dictionaries.learned import Export as Export
from sae_gap.dictionaries.learned import LearnedDictionary as LearnedDictionary
from sae_gap.dictionaries.learned import Rows as Rows
from sae_gap.dictionaries.learned import check_sparse as check_sparse
from sae_gap.dictionaries.learned import fit_signals as fit_signals
from sae_gap.dictionaries.learned import open_rows as open_rows
from sae_gap.dictionaries.learned import screened as screened

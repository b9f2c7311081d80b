# The names that files import from here, and where each is defined.

from sae_gap.dictionaries.export import Export as Export
from sae_gap.dictionaries.export import sae_learner as sae_learner
from sae_gap.dictionaries.export import train_sae as train_sae
from sae_gap.dictionaries.fits import fit_rows as fit_rows
from sae_gap.dictionaries.fits import fit_signals as fit_signals
from sae_gap.dictionaries.learned import LearnedDictionary as LearnedDictionary
from sae_gap.dictionaries.report import SCORED as SCORED
from sae_gap.dictionaries.report import Report as Report
from sae_gap.dictionaries.report import check_reached as check_reached
from sae_gap.dictionaries.report import make_report as make_report
from sae_gap.dictionaries.report import score_codes as score_codes
from sae_gap.dictionaries.rows import Rows as Rows
from sae_gap.dictionaries.rows import check_sparse as check_sparse
from sae_gap.dictionaries.rows import open_rows as open_rows
from sae_gap.dictionaries.rows import screened as screened

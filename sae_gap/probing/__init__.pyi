# The names that files import from here, and where each is defined.

from sae_gap.probing.concepts import Labelled as Labelled
from sae_gap.probing.concepts import Probed as Probed
from sae_gap.probing.concepts import Split as Split
from sae_gap.probing.concepts import Tokens as Tokens
from sae_gap.probing.concepts import choose_rows as choose_rows
from sae_gap.probing.concepts import concept as concept
from sae_gap.probing.concepts import read_pair as read_pair
from sae_gap.probing.concepts import split_cells as split_cells
from sae_gap.probing.summary import overall as overall

# The names that files import from here, and where each is defined.

from sae_gap.figures.cost import budget as budget
from sae_gap.figures.cost import loss_by_cost as loss_by_cost
from sae_gap.figures.cost import recovery_by_seconds as recovery_by_seconds
from sae_gap.figures.curves import curve as curve
from sae_gap.figures.curves import matched_cosines as matched_cosines
from sae_gap.figures.curves import recovery_by_level as recovery_by_level
from sae_gap.figures.lines import MARKERS as MARKERS
from sae_gap.figures.lines import draw_lines as draw_lines
from sae_gap.figures.lines import looks_of as looks_of
from sae_gap.figures.parts import encoder_shares as encoder_shares
from sae_gap.figures.parts import gap_parts as gap_parts
from sae_gap.figures.parts import loss_parts as loss_parts
from sae_gap.figures.parts import together as together
from sae_gap.figures.parts import training_budget as training_budget
from sae_gap.figures.sae_measurement import codes_label as codes_label
from sae_gap.figures.sae_measurement import coherence as coherence
from sae_gap.figures.sae_measurement import features_and_nats as features_and_nats
from sae_gap.figures.sae_measurement import fvu_curve as fvu_curve
from sae_gap.figures.sae_measurement import name_of as name_of
from sae_gap.figures.sae_measurement import ood_drop as ood_drop
from sae_gap.figures.sae_measurement import trained_name as trained_name
from sae_gap.figures.style import save as save

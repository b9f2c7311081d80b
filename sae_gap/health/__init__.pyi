# The names that files import from here, and where each is defined.

from sae_gap.health.check import Check as Check
from sae_gap.health.evidence import Evidence as Evidence
from sae_gap.health.faults import find_faults as find_faults
from sae_gap.health.readings import BLOCK as BLOCK
from sae_gap.health.readings import LEAST_GAIN as LEAST_GAIN
from sae_gap.health.readings import OFFSET as OFFSET
from sae_gap.health.readings import Read as Read
from sae_gap.health.readings import Reading as Reading
from sae_gap.health.readings import affines as affines
from sae_gap.health.readings import others as others

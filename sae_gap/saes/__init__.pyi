# The names that files import from here, and where each is defined.

from sae_gap.saes.files import read_tensors as read_tensors
from sae_gap.saes.find import write_free as write_free
from sae_gap.saes.foreign_encoders import AbsTopK as AbsTopK
from sae_gap.saes.foreign_encoders import BatchLargest as BatchLargest
from sae_gap.saes.foreign_encoders import RepeatingPursuit as RepeatingPursuit
from sae_gap.saes.loaded_sae import SAE as SAE
from sae_gap.saes.loaded_sae import load_sae as load_sae
from sae_gap.saes.loaded_sae import of_parts as of_parts
from sae_gap.saes.loaded_sae import own_codes as own_codes
from sae_gap.saes.own_files import ATOMS as ATOMS
from sae_gap.saes.own_files import BIAS as BIAS
from sae_gap.saes.parts import DICTIONARY as DICTIONARY
from sae_gap.saes.parts import FIT as FIT
from sae_gap.saes.parts import Parts as Parts
from sae_gap.saes.readers import holds as holds
from sae_gap.saes.save import as_fit as as_fit
from sae_gap.saes.save import as_metadata as as_metadata
from sae_gap.saes.save import files_of as files_of
from sae_gap.saes.save import has_form as has_form
from sae_gap.saes.save import save_sae as save_sae

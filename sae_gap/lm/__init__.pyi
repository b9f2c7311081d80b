# The names that files import from here, and where each is defined.

from sae_gap.lm.downstream import FIRST as FIRST
from sae_gap.lm.downstream import Downstream as Downstream
from sae_gap.lm.downstream import Network as Network
from sae_gap.lm.language_model import Batch as Batch
from sae_gap.lm.language_model import Block as Block
from sae_gap.lm.language_model import LanguageModel as LanguageModel
from sae_gap.lm.language_model import Llama as Llama
from sae_gap.lm.language_model import Piece as Piece
from sae_gap.lm.language_model import Shape as Shape
from sae_gap.lm.language_model import Windows as Windows
from sae_gap.lm.language_model import batch_rows as batch_rows
from sae_gap.lm.language_model import cut as cut
from sae_gap.lm.language_model import fill as fill
from sae_gap.lm.language_model import pack as pack
from sae_gap.lm.on_network import OnNetwork as OnNetwork
from sae_gap.lm.pretrained import LM as LM
from sae_gap.lm.pretrained import installed as installed
from sae_gap.lm.pretrained import load_lm as load_lm
from sae_gap.lm.pretrained import read_model as read_model
from sae_gap.lm.recording import DTYPES as DTYPES
from sae_gap.lm.recording import Recorded as Recorded
from sae_gap.lm.recording import open_recording as open_recording
from sae_gap.lm.recording import origin_of as origin_of
from sae_gap.lm.recording import record as record
from sae_gap.lm.texts import Texts as Texts
from sae_gap.lm.texts import read_texts as read_texts

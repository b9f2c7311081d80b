# The names that files import from here, and where each is defined.

from benchmarks.harness.bench import INFERENCE as INFERENCE
from benchmarks.harness.bench import RECOVERY as RECOVERY
from benchmarks.harness.bench import Bench as Bench
from benchmarks.harness.bench import Run as Run
from benchmarks.harness.bench import StudyOptions as StudyOptions
from benchmarks.harness.drawings import Drawing as Drawing
from benchmarks.harness.methods import Tuned as Tuned
from benchmarks.harness.preset import PRESETS as PRESETS
from benchmarks.harness.preset import PRESETS_BY_LATENTS as PRESETS_BY_LATENTS
from benchmarks.harness.preset import WIDTHS as WIDTHS
from benchmarks.harness.preset import Preset as Preset
from benchmarks.harness.preset import presets as presets
from benchmarks.options import frozen as frozen
from benchmarks.options import option as option

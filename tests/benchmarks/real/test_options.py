"""Every option of every binary reaches the library: of two values of a flag, what the library is
given differs. Nothing is measured.
"""

import contextlib
import dataclasses
import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from pytest import fixture, mark

from benchmarks import cli, options
from benchmarks.real import train_real
from sae_gap.core import Model, entries, hints, kinds
from sae_gap.data import Activations, open_activations
from sae_gap.encoders import Affine, TopK
from sae_gap.lm import OnNetwork
from sae_gap.saes import SAE
from sae_gap.storage import Store
from tests.conftest import binary_of, call_binary

DIM = 40
WIDTH = 12
RNG = default_rng(0)
X = RNG.normal(size=(300, DIM)).astype(np.float32)
X[::50] *= 100
ROWS = {
    name: open_activations(X + shift, documents=np.arange(300) // 10)
    for shift, name in enumerate(("x", "other"))
}
ATOMS = jnp.asarray(RNG.normal(size=(DIM, WIDTH)), jnp.float32)
SAES = {
    name: SAE.of_model(
        Model(scale * ATOMS, jnp.zeros(DIM), Affine(ATOMS, jnp.zeros(WIDTH)), TopK(2)),
        name=name,
    )
    for scale, name in enumerate(("mine", "other", "D"), 1)
}


class StoppedError(Exception):
    """The library has been given all."""


def stop(*_, **__):
    raise StoppedError


def told(value):
    """What decides a value, as text."""
    if isinstance(value, Activations):
        return value.fingerprint
    if isinstance(value, Store):
        return str(value.folder)
    if isinstance(value, dict):
        return {key: told(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [told(each) for each in value]
    if callable(getattr(value, "methods", None)):
        return [
            value.name,
            value.calibrate_on,
            told(value.sources),
            told(value.methods(None)),
        ]
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, SAE)):
        names = (field.name for field in dataclasses.fields(value))
        return {
            name: told(getattr(value, name)) for name in names if hasattr(value, name)
        }
    return re.sub(r" at 0x\w+", "", f"{value} {value!r}")


# Places in `benchmarks.real`, or elsewhere, and what stands there: nothing is measured.
REPORT = SimpleNamespace(wrong=(), sae=SAES["mine"])
RECORDED = SimpleNamespace(
    activations=lambda layer: ROWS["x" if layer == 10 else "other"],
    mlp=lambda layer: (ROWS["other"], ROWS["x"]),
    require=lambda lm: None,
    topics=None,
    folder="r",
    tokens=(),
    names=(),
    layers=(),
    documents=np.arange(300) // 10,
)


def measured(study, store, **_):
    usual = {"l0": 3.0, "level": 3.0, "dead": False, "kl": 1.0, "fvu": 0.5, "lam": 0.1}
    usual["products"] = None
    return [
        usual | {"dictionary": each.learner.name, "family": each.family} | each.row
        for each in study.methods(None)
    ]


STUBS = {
    "inputs.open_activations": lambda path, key=None: ROWS.get(path, ROWS["x"]),
    "inputs.load_sae": lambda path, **_: SAES.get(path, SAES["mine"]),
    "inputs.check": lambda *_, **__: REPORT,
    "sae_gap.lm.pretrained.load_lm": SimpleNamespace(name="lm"),
    "record.load_lm": SimpleNamespace(name="lm"),
    "record.read_texts": "texts",
    "sae_gap.lm.recording.open_recording": RECORDED,
    "sae_gap.study.runner.run": measured,
    "sae_gap.measure.put_back_together": stop,
    "sae_gap.figures.save": None,
    "sae_gap.figures.ood_drop": None,
    "sae_gap.analysis.tables.write_table": None,
    "sae_gap.probing.overall": [],
    "probe_real.run": measured,
    "measurement_page.write": "page",
    "measure.splits": [],
    "measure.report": ["nats"],
    "measure.figures.fvu_curve": None,
    "measure.figures.loss_parts": None,
    "measure.figures.loss_by_cost": None,
    "measure.table": "costs",
    "probe_real.table_of": "table",
    "probe_real.tokens_of": None,
    "probe_real.of_pairs": lambda *_: (X, {}),
    "record.record": RECORDED,
    "train_real.study_of": train_real.study_of,
    "train_real.Models": None,
    "train_real.run": stop,
    "sae_gap.runtime.progress.limit": None,
    "sae_gap.runtime.distributed.start": None,
    "sae_gap.check": SimpleNamespace(wrong=()),
}


@fixture
def given(monkeypatch, tmp_path):
    """Runs a binary on a library that computes nothing: all that it is given, and what is printed."""
    seen = []

    def spy(patch, place, stub):
        def stand_in(*args, **named):
            # Pages have the command and its seconds.
            seen.append(
                str((place, told(args[: 1 if "page" in place else None]), told(named)))
            )
            return stub(*args, **named) if callable(stub) else stub

        patch.setattr(
            place if place[:7] == "sae_gap" else f"benchmarks.real.{place}", stand_in
        )

    monkeypatch.setattr(OnNetwork, "asdict", lambda self: {"told": told(self)})

    def run(name, flags, fvu=0.1):
        seen.clear()
        REPORT.fvu = fvu
        with monkeypatch.context() as patch:
            for place, stub in STUBS.items():
                spy(patch, place, stub)
            with contextlib.suppress(StoppedError):
                code, out, err = call_binary(name, *flags)
                assert code == 0 or "--anyway" in err, err
                seen.append(out)
        return [*seen]

    return run


BASE = {
    "record": "",
    "train_real": f"--activations=x --width={WIDTH} --sparsity=3 --methods=topk,online_dl",
    "measure": "--sae=mine --activations=x --recording=r --l0=3 --costs=own",
    "probe_real": "--sae=mine --recording=r --l0=3",
    "check": "--sae=mine --activations=x",
}
BASE = {name: flags.split() for name, flags in BASE.items()}
# Other values than the usual ones, of flags whose type does not tell.
OTHER = {
    "codes": "own,thresholded",
    "controls": "samples",
    "costs": "own,thresholded",
    "dictionary": "D",
    "held_out": "0.2",
    "l0": "2",
    "methods": "relu",
    "pairs": "letters:x+space",
    "process_id": "1",
    "sparsity": "2",
    "tokens": "100",
}
JOINED = ("coordinator", "num_processes", "process_id")


def other(field, hint):
    """A value that is neither the default nor that of `BASE`."""
    choices = field.metadata["limits"].get("choices")
    allowed = kinds(hint)
    listed = entries(hint)
    if field.name in OTHER:
        return OTHER[field.name]
    if choices:
        return next(each for each in choices if each != field.default)
    if {int, float} & {*allowed, *(listed or ())}:
        return 50
    return "other"


CASES = [
    (name, field)
    for name in BASE
    for field in options.fields(cli.options_of(binary_of(name).main))
]


@mark.parametrize(
    ("name", "field"), CASES, ids=[f"{name}-{field.name}" for name, field in CASES]
)
def test_an_option_changes_what_the_library_is_given(given, tmp_path, name, field):
    flags = (
        [*BASE[name], f"--results_dir={tmp_path}"] if name != "check" else BASE[name]
    )
    if field.name in JOINED or (name, field.name) == ("measure", "distributed"):
        flags = [
            flag
            for flag in flags
            if not flag.startswith(("--recording", "--costs", "--l0"))
        ]
        flags += ["--distributed"] * (field.name in JOINED)
    if field.name == "steps":
        flags = [*flags, "--methods=topk"]
    if field.name == "layers" and name == "measure":
        flags = [*BASE["probe_real"], flags[-1]]
    hint = hints(cli.options_of(binary_of(name).main))[field.name]
    flag = options.flag_of(field)
    changed = f"--{flag}" if bool in kinds(hint) else f"--{flag}={other(field, hint)}"
    if field.name == "results_dir":
        changed += f"{tmp_path}/other"
    fvu = 0.95 if field.name == "anyway" else 0.1
    again = [each for each in flags if not each.startswith(f"--{flag}=")]
    assert given(name, flags, fvu) != given(name, [*again, changed], fvu)


@mark.parametrize("name", ["train_real", "measure"])
def test_no_seed_scores_what_train_real_learned_from(given, tmp_path, name):
    told = given(name, [*BASE[name], f"--results_dir={tmp_path}", "--seed=3"])
    splits = {*re.findall(r"'split_seed': ['\"]+(\S+)", "\n".join(told))}
    # Where variance is measured alone, a seed draws what is scored.
    assert splits == {"0"} | ({"None"} if name == "measure" else set())


@mark.parametrize(
    ("name", "flags", "word", "there"),
    [
        ("measure", [], "'encoder_cost', 'train'", True),
        # Controls learn for the middle of the L0s.
        (
            "measure",
            ["--l0=2,3,4", "--controls=topk"],
            "'k': '3 3'",
            True,
        ),
        ("measure", ["--sae=", "--dictionary=mine"], "'codes': \"own 'own'\"", False),
    ],
)
def test_what_the_library_is_given(given, tmp_path, name, flags, word, there):
    told = given(name, [*BASE[name], f"--results_dir={tmp_path}", *flags])
    assert (word in "\n".join(told)) == there


def test_a_recording_gives_the_rows_of_its_files(given, tmp_path):
    files = ["--activations=x"], ["--activations=other", "--targets=x"]
    usual = "--sae=mine", "--controls=none", f"--results_dir={tmp_path}"
    for mlp, place in zip(([], ["--mlp"]), files, strict=True):
        told = given("measure", [*usual, "--recording=r", "--l0=3", *mlp])
        again = given("measure", [*usual, *place])
        studies = [
            [each for each in run if "'measure_sae', 'scored'" in each]
            for run in (told, again)
        ]
        assert studies[0][0].split("Folder")[0] == studies[1][0].split("Folder")[0]

"""Which SAE is read at a path, and that whatever is wrong there is said in one sentence: nothing in
a file is executed, and none takes memory that it does not fill.
"""

import json
import shutil
import struct
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import safetensors.torch
import torch
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark
from safetensors.numpy import load_file, save_file

import sae_gap
from benchmarks.real import train_real
from sae_gap import load_sae
from sae_gap.saes import Parts, RepeatingPursuit, of_parts, read_tensors
from sae_gap.saes.parts import Sizes, read_options
from sae_gap.storage import Config, Folder
from tests import torch_files
from tests.saes.examples import FILES, changed, refused
from tests.torch_files import archive, state, tensor

X = default_rng(3).normal(1, size=(24, 6)).astype("f")
TEN = np.full(10, 2, "f")
SKIP = np.zeros((6, 6), "f")
PLAIN = load_file(FILES / "saelens/standard/sae_weights.safetensors")
# By the place of an SAE: what changes of its tensors or of its configuration, and words of the
# sentence.
FAULTS = {
    "saelens/standard": [
        ({"W_enc": None}, "has no tensor W_enc, but W_dec"),
        (
            {"W_dec": PLAIN["W_dec"].T},
            "has shape (6, 10) where (10, 6) is expected; transpose it",
        ),
        ({"b_enc": TEN[:9]}, "where (10,) is expected; give what belongs together"),
        ({"b_enc": TEN.astype(int)}, "has the type int64; save it as float32"),
        ({"b_enc": TEN * np.inf}, "b_enc"),
        ({"a\nb\x1b[31m": TEN}, "holds a\N{REPLACEMENT CHARACTER}b"),
        ({"apply_b_dec_to_input": "yes"}, "must be true or false, but it is 'yes'"),
        ({"architecture": "sorcery"}, "must be one of"),
        ({"d_out": 6}, "skip_transcoder"),
        ({"k": 3}, "has a k, but its architecture is standard"),
        ({"metadata": [1]}, "must be an object"),
    ],
    "saelens/transcoder": [
        ({"apply_b_dec_to_input": True}, "set apply_b_dec_to_input to false"),
        ({"normalize_activations": "layer_norm"}, "by layer norm"),
    ],
    "saelens/old_scaling_of_ones": [
        ({"scaling_factor": 2 * TEN}, "set finetuning_scaling_factor")
    ],
    "saelens/topk": [({"k": 11}, "of at most 10")],
    "sparsify/layers.0": [
        ({"W_skip": SKIP}, "W_skip"),
        ({"skip_connection": True}, "W_skip"),
    ],
    "sparsify/layers.3.mlp": [({"transcode": False}, "set transcode")],
    "circuit_tracer/jumprelu": [
        ({"activation_function.threshold": -TEN}, "below zero")
    ],
    "gemma_scope/transcoder": [({"affine_connection": True}, "affine_skip_connection")],
    "dictionary_learning/topk": [
        ({"trainer": {"dict_class": "CrossCoder"}}, "CrossCoder")
    ],
}
ROWS = [(case, *fault) for case, faults in FAULTS.items() for fault in faults]


@mark.parametrize(("case", "values", "words"), ROWS)
def test_what_does_not_fit_is_named(tmp_path, case, values, words):
    folder = changed(tmp_path, case, **values)
    refused(lambda: load_sae(folder), str(folder), words)


def npy(shape, size, dtype="<f4"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
    return start + text.encode() + bytes(size)


def header(**entry):
    entry = {"dtype": "F32", "data_offsets": [0, 4]} | entry
    text = json.dumps({"W_enc": entry})
    return struct.pack("<Q", len(text)) + text.encode() + bytes(4)


WHOLE = (FILES / "saelens/standard/sae_weights.safetensors").read_bytes()
# By the name of a file.
SPOILT = [
    # Calls of what is not to be called.
    (
        "ae.pt",
        b"cposix\nsystem\n(X\x01\x00\x00\x00xtR.",
        "names posix.system, which is no tensor",
    ),
    ("ae.pt", b"\x80\x04\x8c\x05posix\x8c\x05popen\x93.", "posix.popen"),
    ("ae.pt", b"ctorch\nFloatStorage\n)R.", "ae.pt"),
    # Numbers that ask for memory.
    ("ae.pt", b"N" + b"r" + struct.pack("<I", 10**7) + b"0.", "ae.pt"),
    (
        "ae.pt",
        state(a=tensor(shape=(10**9, 10**9), strides=(0, 0))),
        "fit in its storage",
    ),
    # Tensors that reach beyond their storage, which may be elsewhere.
    ("ae.pt", state(a=tensor(shape=(2, 3), strides=(4, 1))), "ae.pt"),
    ("ae.pt", state(a=tensor(offset=-1)), "ae.pt"),
    (
        "ae.pt",
        state(a=tensor(held=torch_files.storage(key="../../etc/passwd"))),
        "ae.pt",
    ),
    ("ae.pt", state(a=tensor(held=torch_files.plain(3))), "ae.pt"),
    ("ae.pt", b"]" * 20_000 + b".", "ae.pt"),
    ("params.npz", npy((1,), 8, "|O"), "allow_pickle=False"),
    ("params.npz", npy((5_000, 500), 10**7), "would unpack"),
    ("a.safetensors", b"", "as a safetensors file"),
    ("a.safetensors", header(shape=[10**9, 10**9]), "as a safetensors file"),
    ("a.safetensors", header(shape=[1], dtype="F8_E4M3"), "as a safetensors file"),
    ("a.safetensors", WHOLE[:-10], "as a safetensors file"),
]


@mark.parametrize(("name", "content", "words"), SPOILT)
def test_no_file_is_executed_or_takes_memory_that_it_does_not_fill(
    tmp_path, name, content, words
):
    path = tmp_path / name
    if name == "ae.pt":
        archive(path, content)
    elif name == "params.npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("W_enc.npy", content)
    else:
        path.write_bytes(content)
    tracemalloc.start()
    try:
        refused(lambda: read_tensors(path), str(path), words)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_a_path_has_one_sae(tmp_path):
    folder = changed(tmp_path, "saelens/standard")
    shutil.copy(FILES / "gemma_scope/first/params.npz", folder)
    refused(
        lambda: load_sae(folder),
        "several files",
        "sae_weights.safetensors",
        "params",
    )
    (folder / "params.npz").unlink()
    (folder / "cfg.json").unlink()
    for name in ("W_enc_0", "mine"):
        shutil.copy(
            FILES / "circuit_tracer/topk/layer_3.safetensors",
            f"{folder}/{name}.safetensors",
        )
    shutil.copytree(FILES / "gemma_scope/first", tmp_path / "clt")
    np.save(folder / "row.npy", TEN)
    (folder / "cut.npy").write_bytes(b"no array")
    save_file({"a": SKIP, "b": SKIP}, folder / "two.safetensors")
    for path, words in (
        (folder / "sae_weights.safetensors", "cfg.json is not a file"),
        (FILES / "PROVENANCE.md", "is not the weights of an SAE"),
        (tmp_path / "nowhere", "neither a folder nor a file"),
        (FILES / "sparsify", "below it have: bfloat16"),
        (FILES, "more; give"),
        (tmp_path / "clt", "several layers"),
        (folder / "W_enc_0.safetensors", "cross-layer"),
        (folder / "mine.safetensors", "SAE.from_arrays"),
        (folder / "two.safetensors", "must hold one tensor, but has a, b"),
        (folder / "row.npy", "must be a non-empty matrix"),
        (folder / "cut.npy", "cannot be read as weights of an SAE or an array"),
    ):
        refused(lambda: load_sae(path), words)  # noqa: B023


ATOMS = default_rng(0).normal(size=(6, 10)).astype(np.float32)
BIAS = np.arange(6, dtype=np.float32)
MEAN = np.full(6, 2, np.float32)
MODEL = sae_gap.Model(jnp.asarray(ATOMS), jnp.asarray(BIAS))
# What writes a dictionary to a place, the file in it, and the bias in it.
KINDS = {
    "learned": (
        lambda path: sae_gap.dictionary(ATOMS, BIAS, l0=2).save(path),
        "",
        BIAS,
    ),
    "trained": (
        lambda path: train_real.save(MODEL, Folder(path), {}, None),
        "dictionary.npy",
        BIAS,
    ),
    "x.npy": (lambda path: np.save(path, ATOMS), "", MEAN),
    "x.safetensors": (lambda path: save_file({"any": ATOMS}, path), "", MEAN),
    "x.pt": (lambda path: torch_files.save(path, ATOMS), "", MEAN),
    "y.pt": (lambda path: torch_files.save(path, {"atoms": ATOMS}), "", MEAN),
}


@mark.parametrize("kind", KINDS)
def test_each_kind_of_dictionary_opens_with_its_own_bias_or_else_the_mean(
    tmp_path, kind
):
    write, name, bias = KINDS[kind]
    write(tmp_path / kind)
    path = tmp_path / kind / name
    sae = load_sae(path, mean=lambda: MEAN)
    unit = ATOMS / np.linalg.norm(ATOMS, axis=0)
    assert_allclose(sae.unit_dictionary, unit, atol=1e-6)
    assert_array_equal(sae.bias, bias)
    assert sae.given.family == "dictionary"
    assert not sae.signed and sae.model.encode is None
    refused(lambda: sae.encode(X), "a decoder alone")
    if bias is MEAN:
        refused(lambda: load_sae(path, mean=TEN), "shape (10, num_latents)")
        assert not load_sae(path).bias.any()


HERE = {"hf_hook_point_out": "model.layers.5.pre_feedforward_layernorm.output"}


@mark.parametrize(
    ("case", "entries", "transcodes"),
    [
        ("transcoder", HERE | {"type": "sae"}, False),
        ("transcoder", {"type": "sae"}, True),
        ("transcoder", HERE, True),
        ("transcoder_affine", HERE | {"type": "sae"}, True),
    ],
)
def test_each_sign_of_a_transcoder_of_gemma_scope_is_enough(
    tmp_path, case, entries, transcodes
):
    folder = changed(
        tmp_path, f"gemma_scope/{case}", affine_connection=False, **entries
    )
    assert load_sae(folder).transcodes == transcodes


@mark.parametrize("kind", [torch.float8_e4m3fn, torch.float64])
def test_weights_of_eight_or_sixty_four_bits_are_read_as_they_are(tmp_path, kind):
    folder = changed(tmp_path, "saelens/standard")
    narrow = {name: torch.tensor(array).to(kind) for name, array in PLAIN.items()}
    safetensors.torch.save_file(narrow, folder / "sae_weights.safetensors")
    found = load_sae(folder).model.encoder.weight
    assert_array_equal(found, narrow["W_enc"].float())


@mark.parametrize("case", ["topk_rescaled", "abstopk_rescaled", "pursuit"])
def test_a_dead_atom_is_never_among_the_largest(tmp_path, case):
    """Its code times its length is nothing."""
    atoms = PLAIN["W_dec"] * (np.arange(10) != 4)[:, None]
    sae = load_sae(changed(tmp_path, f"saelens/{case}", W_dec=atoms))
    codes = np.asarray(sae.encode(X))
    assert np.isfinite(codes).all() and float(sae.lengths[4]) == 0
    assert not codes[:, 4].any() and (codes != 0).sum(axis=1).max() > 1


def test_older_options_of_saelens(tmp_path):
    """A factor on the codes as they are decoded, a flag for a normalisation, and a hook of many
    letters.
    """
    options = {"finetuning_scaling_factor": True, "normalize_activations": True}
    options |= {"hook_point": "0\n\x1b[31m" + "x" * 10_000, "sae_lens_version": "²"}
    factors = np.linspace(0.5, 2, 10, dtype="f")
    sae = load_sae(changed(tmp_path, "saelens/old", scaling_factor=factors, **options))
    held = load_file(tmp_path / "sae/sae_weights.safetensors")
    codes = np.maximum((X - held["b_dec"]) @ held["W_enc"] + held["b_enc"], 0)
    assert_allclose(sae.encode(X), codes, atol=1e-5)
    wanted = (codes * factors) @ held["W_dec"] + held["b_dec"]
    assert_allclose(sae.reconstruct(X), wanted, rtol=1e-5, atol=1e-4)
    assert sae.normalisation.name == "none"
    assert "a mean norm of 2.449" in sae.notes["caution"]
    assert all(map(str.isprintable, sae.notes.values()))
    assert len(sae.notes["hook_name"]) < 100
    # What a configuration lacks is as SAELens has it by default.
    wanted = {
        "max_iterations": 6,
        "residual_threshold": 0.01,
        "stop_on_duplicate_support": True,
    }
    assert (
        read_options("matching_pursuit", Config(tmp_path, {}), Sizes(6, 10, 6))
        == wanted
    )


def test_codes_of_unit_atoms_keep_their_thresholds_and_a_dead_atom_reaches_none():
    eye = np.eye(2, dtype="f")
    tensors = {
        "W_dec": np.diag([2, 0]).astype("f"),
        "b_dec": eye[0],
        "W_enc": eye,
        "b_enc": np.zeros(2, "f"),
        "threshold": 0.5,
    }
    parts = Parts(
        "jumprelu", {}, tensors, "ours", "jumprelu", {}, codes_of_unit_atoms=True
    )
    assert_array_equal(of_parts(parts).encode(eye), [[2, 0], [0, 0]])


def test_what_a_bias_adds_to_codes_is_summed_in_double_precision():
    long = np.array([2.0**24, 1.0], np.float32)
    weight = np.ones((2, 3), np.float32)
    arrays = {"W_dec": weight.T, "b_dec": long, "W_enc": weight}
    arrays["b_enc"] = np.full(3, -(2.0**24), np.float32)
    sae = of_parts(Parts("standard", {}, arrays, "ours", "standard", {}))
    assert_array_equal(sae.model.encoder.bias, [1, 1, 1])


def test_a_pursuit_stops_once_little_is_left():
    model = sae_gap.Model(jnp.eye(3), jnp.zeros(3))
    # After 3, what is left of the first is of norm 1.12.
    signals = jnp.array([[3, 1, 0.5], [3, 2, 0.5]])
    codes = RepeatingPursuit(9, 1.2, stop_on_repeat=True)(model, signals)
    assert_allclose(codes, [[3, 0, 0], [3, 2, 0]])


def test_an_sae_is_found_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    """By its repository or by the table of SAELens, which is not imported."""
    folder = tmp_path / "home/hub/models--some--saes"
    package = tmp_path / "packages/sae_lens"
    for part in (folder / "refs", package):
        part.mkdir(parents=True)
    (folder / "refs/main").write_text("new")
    for revision, case in (("new", "jumprelu"), ("old", "topk")):
        shutil.copytree(
            FILES / "saelens" / case, folder / "snapshots" / revision / "layer_3/wide"
        )
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert load_sae("some/saes", "layer_3/wide").architecture == "jumprelu"
    get = "get it by hf download some/saes --include 'layer_4/*'."
    refused(lambda: load_sae("some/saes", "layer_4"), get)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "pretrained_saes.yaml").write_text(
        "two-res:\n  repo_id: some/saes\n  saes:\n  - {id: blocks.3, path: layer_3/wide}\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home/hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    assert load_sae("two-res", "blocks.3").architecture == "jumprelu"
    refused(
        lambda: load_sae("two-res", "blocks.4"),
        "has no SAE blocks.4, but blocks.3;",
    )

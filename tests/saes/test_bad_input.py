"""Whatever is wrong with the files of an SAE is said in one sentence that names it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import sae_gap
from sae_gap.saes.decoders import read_tensors
from sae_gap.torch import SAE

FILES = Path(__file__).parent / "files"


def copy(tmp_path, case):
    folder = tmp_path / "sae"
    shutil.copytree(FILES / case, folder)
    return folder


def refused(path, *words):
    with pytest.raises(ValueError) as caught:
        sae_gap.load_sae(path)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.endswith(".") and "\n" not in message and len(message) < 700
    # One sentence: no full stop but at its end, and those of numbers and of names of files.
    assert message.count(". ") == 0, message


def edit(**tensors):
    """A change of the tensors of a folder, of which None takes one out."""

    def change(folder):
        (path,) = folder.glob("*.safetensors")
        held = {
            key: value for key, value in (load_file(path) | tensors).items() if value is not None
        }
        save_file({key: np.ascontiguousarray(value) for key, value in held.items()}, path)

    return change


def configure(**entries):
    """A change of the configuration of a folder, of which None takes an entry out."""

    def change(folder):
        (path,) = folder.glob("c*.json")
        held = json.loads(path.read_text()) | entries
        path.write_text(
            json.dumps({key: value for key, value in held.items() if value is not None})
        )

    return change


def configure_yaml(text):
    return lambda folder: (folder / "config.yaml").write_text(f"activation: topk\n{text}\n")


def told(content):
    return lambda folder: (folder / "cfg.json").write_bytes(content)


HELD = load_file(FILES / "saelens/standard/sae_weights.safetensors")
SPOILT, ENDLESS = HELD["W_dec"].copy(), HELD["b_enc"].copy()
SPOILT[3, 2], ENDLESS[4] = np.nan, np.inf
ZEROS, TWOS = np.zeros(10, np.float32), np.full(10, 2, np.float32)
SKIP, THRESHOLD = np.zeros((6, 6), np.float32), "activation_function.threshold"
# A file, what is done to it, and words of the sentence.
FAULTS = [
    ("saelens/standard", edit(W_enc=None), "no tensor W_enc", "W_dec"),
    ("saelens/standard", edit(W_skip=SKIP), "holds W_skip", "standard"),
    (
        "saelens/standard",
        edit(W_dec=HELD["W_dec"].T),
        "W_dec",
        "(6, 10)",
        "(10, 6)",
        "transpose it",
    ),
    ("saelens/standard", edit(b_enc=ZEROS[:9]), "b_enc", "(9,)", "(10,)", "belongs together"),
    ("saelens/standard", edit(b_enc=ZEROS.astype(np.int32)), "b_enc", "int32", "float32"),
    ("saelens/standard", edit(W_dec=SPOILT), "W_dec", "NaN"),
    ("saelens/standard", edit(b_enc=ENDLESS), "b_enc", "infinite"),
    ("saelens/standard", edit(**{"a\nb\x1b[31m": ZEROS}), "holds a\N{REPLACEMENT CHARACTER}b"),
    ("saelens/standard", edit(scaling_factor=TWOS), "scaling_factor", "finetuning_scaling_factor"),
    ("saelens/standard", configure(d_sae=11), "(10, 6)", "(11, 6)"),
    ("saelens/standard", configure(d_in=7), "(6,)", "(7,)"),
    ("saelens/standard", configure(d_in=None), "d_in", "None"),
    ("saelens/standard", configure(apply_b_dec_to_input="yes"), "apply_b_dec_to", "true or false"),
    ("saelens/standard", configure(architecture="sorcery"), "sorcery", "matching_pursuit"),
    ("saelens/standard", configure(d_out=6), "transcoder", "skip_transcoder"),
    ("saelens/transcoder", configure(apply_b_dec_to_input=True), "b_dec", "false"),
    ("saelens/transcoder", configure(normalize_activations="layer_norm"), "layer norm", "none"),
    ("saelens/transcoder", configure(d_out=None), "d_out"),
    ("saelens/transcoder_jumprelu_skip", edit(W_skip=SKIP[:, :4]), "W_skip", "(6, 4)", "(6, 5)"),
    ("saelens/transcoder_jumprelu_skip", edit(W_skip=None), "no tensor W_skip"),
    ("saelens/standard", configure(architecture=3), "architecture", "text"),
    ("saelens/standard", configure(normalize_activations="sphere"), "sphere", "layer_norm"),
    ("saelens/standard", configure(reshape_activations="hook_q"), "hook_q", "hook_z"),
    ("saelens/standard", configure(metadata=[1]), "metadata", "object"),
    ("saelens/topk", configure(k=0), "k ", "0"),
    ("saelens/topk", configure(architecture="standard"), "has a k", "set architecture to topk"),
    ("saelens/jumprelu", configure(architecture="standard"), "threshold", "standard"),
    ("saelens/standard", configure(architecture="jumprelu"), "no tensor threshold"),
    ("saelens/old", configure(activation_fn_str="tanh-relu"), "tanh-relu"),
    ("saelens/pursuit", configure(residual_threshold="small"), "residual_threshold", "'small'"),
    ("sparsify/layers.0", configure(skip_connection=True), "skip"),
    ("sparsify/layers.2.mlp", configure(skip_connection=True), "no tensor W_skip"),
    ("sparsify/layers.0", configure(activation="softmax"), "softmax"),
    ("sparsify/layers.0", edit(W_skip=SKIP), "W_skip", "skip connection"),
    ("sparsify/groupmax", configure(k=5), "12 latents", "5 groups"),
    ("gemma_scope/second", configure(type="clt"), "type", "clt"),
    ("gemma_scope/transcoder", configure(affine_connection=True), "affine_skip_connection"),
    ("circuit_tracer/relu_skip", edit(W_skip=SKIP[:, :5]), "W_skip", "(6, 5)", "(6, 6)"),
    ("circuit_tracer/jumprelu", edit(**{THRESHOLD: -TWOS}), "below zero", "negative codes"),
    ("circuit_tracer/jumprelu", edit(threshold=TWOS), "holds threshold"),
    ("circuit_tracer/topk", configure_yaml("k: many"), "k ", "config.yaml", "'many'"),
    ("circuit_tracer/topk", configure_yaml(""), "k ", "config.yaml"),
    ("circuit_tracer/topk", configure_yaml("activation: batch_topk"), "'batch_topk'", "relu"),
    ("dictionary_learning/topk", configure(trainer={"dict_class": "CrossCoder"}), "CrossCoder"),
    (
        "dictionary_learning/topk",
        configure(trainer={"dict_class": "AutoEncoder"}),
        "no tensor bias",
    ),
    *(
        ("saelens/standard", told(content), "cfg.json")
        for content in (b"", b"{", b"[1, 2]", b"\xff\xfe", b"null", b'{"d_in": 1e999}')
    ),
    *(("saelens/standard", told(content * 100_000), "cfg.json") for content in (b'{"a":', b"[")),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]} {fault[2]}")
def test_what_does_not_fit_is_named(tmp_path, fault):
    case, change, *words = fault
    folder = copy(tmp_path, case)
    change(folder)
    refused(folder, str(folder), *words)


def test_what_a_file_says_of_itself_is_shown_on_one_line_and_a_strange_version_is_an_old_one(
    tmp_path,
):
    folder = copy(tmp_path, "saelens/old")
    configure(hook_point="blocks.0\n\x1b[31m" + "x" * 10_000, sae_lens_version="²")(folder)
    notes = sae_gap.load_sae(folder).notes
    assert notes["hook_name"].startswith("blocks.0\N{REPLACEMENT CHARACTER}") and all(
        map(str.isprintable, notes.values())
    )
    assert max(map(len, notes.values())) < 100


@pytest.mark.parametrize(
    "place",
    [
        "gemma-scope-2/crosscoder/layer_5",
        "x/clt",
    ],
)
def test_folders_of_gemma_scope_that_hold_no_saes(tmp_path, place):
    folder = tmp_path / place
    shutil.copytree(FILES / "gemma_scope/first", folder)
    refused(folder, "several layers")


def test_a_file_of_many_layers_or_of_no_known_library(tmp_path):
    held = load_file(FILES / "circuit_tracer/jumprelu/layer_3.safetensors")
    for name, words in (
        ("W_enc_0.safetensors", "cross-layer"),
        ("params_layer_0.safetensors", "cross-layer"),
        ("mine.safetensors", "SAE.from_arrays"),
        ("empty.safetensors", "SAE.from_arrays"),
    ):
        empty = {"W_enc": np.zeros((2, 0, 3), np.float32)} if name.startswith("empty") else {}
        save_file(held | empty, tmp_path / name)
        refused(tmp_path / name, name, words)


def test_a_k_beside_the_tensors_is_taken(tmp_path):
    folder = copy(tmp_path, "circuit_tracer/topk")
    (folder / "config.yaml").unlink()
    edit(k=np.int64(2))(folder)
    assert sae_gap.load_sae(folder).model.encode.k == 2


@pytest.mark.parametrize(
    ("name", "missing"), [("W_dec", np.s_[:, 1:]), ("W_enc", np.s_[1:]), ("b_dec", np.s_[1:])]
)
def test_a_crosscoder_without_one_of_its_layers(tmp_path, name, missing):
    tensors = read_tensors(FILES / "crosscoder/relu/cc_weights.pt")
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    held = {each: tensors.take(each, *tensors.sizes(each)) for each in names}
    held[name] = held[name][missing]
    held = {each: np.ascontiguousarray(held[each]) for each in names}
    save_file(held, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "where", name.replace("W_enc", "(10, 2, 2)"))


@pytest.mark.parametrize("saved", [False, True])
def test_a_crosscoder_takes_layers_before_dimensions(tmp_path, saved):
    folder, x = FILES / "crosscoder/relu", np.random.default_rng(0).normal(size=(20, 3, 2))
    if saved:
        sae_gap.save_sae(sae_gap.load_sae(folder), tmp_path / "sae")
        folder = tmp_path / "sae"
    sae, module = sae_gap.load_sae(folder), SAE.from_folder(folder)
    for takes in (
        sae.encode,
        lambda x: sae_gap.check(sae, x),
        lambda x: module(torch.from_numpy(x)),
    ):
        takes(x)
        for wrong in (x.swapaxes(1, 2), x[:, :2]):
            with pytest.raises(ValueError, match=r"as \(n, layers, dim\), but they are \(20, 2,"):
                takes(wrong)
        for wrong in (x[:, :, :1], x[:, :2].reshape(20, 4)):
            with pytest.raises(ValueError, match=r"\(\.\.\., 6\)|columns|layers"):
                takes(wrong)


def test_a_path_without_an_sae(tmp_path):
    (copy(tmp_path, "saelens/standard") / "cfg.json").unlink()
    refused(tmp_path / "sae", "cfg.json", "not a file")
    refused(tmp_path / "nowhere", "nowhere", "neither a folder nor a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "sae_weights.safetensors", "ae.pt")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", "notes.txt", "params.npz")


def test_a_folder_of_many_names_the_choices():
    refused(FILES / "sparsify", "layers.0", "layers.1.mlp", "groupmax")
    refused(FILES, "dictionary_learning/autoencoder", "and more")


def test_a_folder_of_two_kinds_asks_which(tmp_path):
    folder = copy(tmp_path, "saelens/standard")
    shutil.copy(FILES / "gemma_scope/first/params.npz", folder)
    refused(folder, "sae_weights.safetensors", "params.npz")


@pytest.mark.parametrize(
    "case", ["saelens/topk", "sparsify/square", "dictionary_learning/topk", "gemma_scope/first"]
)
def test_the_file_of_weights_is_as_good_as_its_folder(case):
    (path,) = (
        path
        for path in (FILES / case).iterdir()
        if path.suffix != ".json" and path.name != "expected.npz"
    )
    found, folder = sae_gap.load_sae(path), sae_gap.load_sae(str(FILES / case))
    np.testing.assert_array_equal(found.model.decoder, folder.model.decoder)
    assert found.notes == folder.notes and found.architecture == folder.architecture


def test_activations_and_codes_that_do_not_fit():
    sae = sae_gap.load_sae(FILES / "saelens/layer_norm")
    codes = sae.encode(np.eye(6))
    for call, words in (
        (lambda: sae.encode(np.ones((3, 7))), ("7 columns", "input_dim 6")),
        (lambda: sae.encode(np.ones(6)), ("activations", "(6,)")),
        (lambda: sae.encode(np.full((2, 6), np.nan)), ("activations", "NaN")),
        (lambda: sae.encode(np.ones((3, 2, 3))), ("activations", "(3, 2, 3)")),
        (lambda: sae.decode(codes), ("layer norm", "like=activations")),
        (lambda: sae.decode(codes, like=np.eye(6)[:3]), ("like=activations", "one row for each")),
        (lambda: sae.decode(np.ones((2, 9)), like=np.ones((2, 6))), ("9 columns", "10 latents")),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert all(word in str(caught.value) for word in words), caught.value

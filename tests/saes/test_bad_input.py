"""Whatever is wrong with the files of an SAE is said in one sentence that names it."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import sae_gap
from sae_gap.saes import read_tensors
from sae_gap.torch import SAE
from tests.saes.examples import FILES, refused


def copy(tmp_path, case):
    folder = tmp_path / "sae"
    shutil.copytree(FILES / case, folder)
    return folder


def edit(folder, **tensors):
    """Changes the tensors of a folder; None takes one out."""
    (path,) = folder.glob("*.safetensors")
    kept = {name: value for name, value in (load_file(path) | tensors).items() if value is not None}
    save_file({name: np.ascontiguousarray(value) for name, value in kept.items()}, path)


def configure(folder, **entries):
    """Changes the configuration of a folder."""
    (path,) = folder.glob("c*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


W_DEC = load_file(FILES / "saelens/standard/sae_weights.safetensors")["W_dec"]
TEN, SKIP = np.full(10, 2, "f"), np.zeros((6, 6), "f")
# By the place of an SAE: what changes of its tensors, or of its configuration, and words of the
# sentence.
TENSORS = {
    "saelens/standard": [
        ({"W_enc": None}, "no tensor W_enc", "W_dec"),
        ({"W_dec": W_DEC.T}, "W_dec", "(6, 10)", "(10, 6)", "transpose it"),
        ({"b_enc": TEN[:9]}, "b_enc", "(9,)", "(10,)", "belongs together"),
        ({"b_enc": TEN.astype(int)}, "b_enc", "int64", "float32"),
        ({"W_dec": W_DEC * np.nan}, "W_dec", "NaN"),
        ({"b_enc": TEN * np.inf}, "b_enc", "infinite"),
        ({"a\nb\x1b[31m": TEN}, "holds a\N{REPLACEMENT CHARACTER}b"),
        ({"scaling_factor": TEN}, "scaling_factor", "finetuning_scaling_factor"),
    ],
    "sparsify/layers.0": [({"W_skip": SKIP}, "W_skip", "skip connection")],
    "circuit_tracer/jumprelu": [
        ({"activation_function.threshold": -TEN}, "below zero", "negative codes"),
    ],
}
ENTRIES = {
    "saelens/standard": [
        ({"d_sae": 11}, "(10, 6)", "(11, 6)"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to", "true or false"),
        ({"architecture": "sorcery"}, "sorcery", "matching_pursuit"),
        ({"architecture": "jumprelu"}, "no tensor threshold"),
        ({"d_out": 6}, "transcoder", "skip_transcoder"),
        ({"normalize_activations": "sphere"}, "sphere", "layer_norm"),
        ({"reshape_activations": "hook_q"}, "hook_q", "hook_z"),
        ({"metadata": [1]}, "metadata", "object"),
    ],
    "saelens/transcoder": [
        ({"apply_b_dec_to_input": True}, "b_dec", "false"),
        ({"normalize_activations": "layer_norm"}, "layer norm", "none"),
    ],
    "saelens/topk": [
        ({"k": 0}, "k ", "0"),
        ({"architecture": "standard"}, "has a k", "set architecture to topk"),
    ],
    "saelens/pursuit": [({"residual_threshold": "small"}, "residual_threshold", "'small'")],
    "sparsify/layers.0": [
        ({"skip_connection": True}, "skip"),
    ],
    "sparsify/groupmax": [({"k": 5}, "12 latents", "5 groups")],
    "gemma_scope/transcoder": [({"affine_connection": True}, "affine_skip_connection")],
    "dictionary_learning/topk": [({"trainer": {"dict_class": "CrossCoder"}}, "CrossCoder")],
}
TEXTS = {
    "saelens/standard/cfg.json": [
        (text, "cfg.json") for text in ("[1, 2]", '{"d_in": 1e999}', '{"a":' * 10**5)
    ],
    "circuit_tracer/topk/config.yaml": [
        ("activation: topk\nk: many", "k ", "config.yaml", "'many'"),
        ("activation: batch_topk", "'batch_topk'", "relu"),
    ],
}
FAULTS = [
    (change, case, *fault)
    for change, table in ((edit, TENSORS), (configure, ENTRIES), (None, TEXTS))
    for case, faults in table.items()
    for fault in faults
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[1]} {fault[3]}")
def test_what_does_not_fit_is_named(tmp_path, fault):
    change, case, given, *words = fault
    if change is None:
        case, _, name = case.rpartition("/")
    folder = copy(tmp_path, case)
    if change is None:
        (folder / name).write_text(given)
    else:
        change(folder, **given)
    refused(lambda: sae_gap.load_sae(folder), str(folder), *words)


def test_a_note_is_shown_on_one_line_and_a_strange_version_is_an_old_one(tmp_path):
    folder = copy(tmp_path, "saelens/old")
    configure(folder, hook_point="blocks.0\n\x1b[31m" + "x" * 10_000, sae_lens_version="²")
    notes = sae_gap.load_sae(folder).notes
    assert notes["hook_name"].startswith("blocks.0\N{REPLACEMENT CHARACTER}")
    assert all(map(str.isprintable, notes.values())) and len(max(notes.values(), key=len)) < 100


@pytest.mark.parametrize(
    ("name", "missing"), [("W_dec", np.s_[:, 1:]), ("W_enc", np.s_[1:]), ("b_dec", np.s_[1:])]
)
def test_a_crosscoder_without_one_of_its_layers(tmp_path, name, missing):
    tensors = read_tensors(FILES / "crosscoder/relu/cc_weights.pt")
    parts = {part: tensors.take(part, *tensors.sizes(part)) for part in tensors}
    parts[name] = parts[name][missing]
    path = tmp_path / "x.safetensors"
    save_file({part: np.ascontiguousarray(array) for part, array in parts.items()}, path)
    refused(lambda: sae_gap.load_sae(path), "where", name.replace("W_enc", "(10, 2, 2)"))


def test_a_crosscoder_takes_layers_before_dimensions(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3, 2))
    sae_gap.save_sae(sae_gap.load_sae(FILES / "crosscoder/relu"), tmp_path / "sae")
    sae, module = sae_gap.load_sae(tmp_path / "sae"), SAE.from_folder(tmp_path / "sae")
    for takes in (
        sae.encode,
        lambda x: sae_gap.check(sae, x),
        lambda x: module(torch.from_numpy(x)),
    ):
        takes(x)
        for wrong in (x.swapaxes(1, 2), x[:, :2]):
            refused(lambda: takes(wrong), "as (n, layers, dim), but they are (20, 2,")  # noqa: B023


def test_a_path_without_one_sae(tmp_path):
    def load(*names):
        return lambda: sae_gap.load_sae(tmp_path.joinpath(*names))

    folder = copy(tmp_path, "saelens/standard")
    shutil.copy(FILES / "gemma_scope/first/params.npz", folder)
    refused(load("sae"), "sae_weights.safetensors", "params.npz")
    (folder / "params.npz").unlink()
    (folder / "cfg.json").unlink()
    refused(load("sae"), "cfg.json", "not a file")
    refused(load("nowhere"), "nowhere", "neither a folder nor a file")
    refused(lambda: sae_gap.load_sae(FILES / "sparsify"), "layers.0", "layers.1.mlp", "groupmax")
    refused(lambda: sae_gap.load_sae(FILES), "dictionary_learning/autoencoder", "and more")
    for place in ("gemma-scope-2/crosscoder/layer_5", "x/clt"):
        shutil.copytree(FILES / "gemma_scope/first", tmp_path / place)
        refused(load(place), "several layers")
    tensors = load_file(FILES / "circuit_tracer/jumprelu/layer_3.safetensors")
    for name in ("W_enc_0", "params_layer_0", "mine"):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        words = "SAE.from_arrays" if name == "mine" else "cross-layer"
        refused(load(f"{name}.safetensors"), name, words)


def test_activations_and_codes_that_do_not_fit():
    sae = sae_gap.load_sae(FILES / "saelens/layer_norm")
    codes, eye = sae.encode(np.eye(6)), np.eye(6)
    for call, *words in (
        (lambda: sae.encode(np.ones((3, 7))), "7 columns", "input_dim 6"),
        (lambda: sae.encode(np.ones(6)), "activations", "(6,)"),
        (lambda: sae.encode(np.nan * eye), "activations", "NaN"),
        (lambda: sae.encode(np.ones((3, 2, 3))), "activations", "(3, 2, 3)"),
        (lambda: sae.decode(codes), "layer norm", "like=activations"),
        (lambda: sae.decode(codes, like=eye[:3]), "like=activations", "one row for each"),
        (lambda: sae.decode(np.ones((2, 9)), like=eye[:2]), "9 columns", "10 latents"),
    ):
        refused(call, *words)

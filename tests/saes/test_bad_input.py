"""Whatever is wrong with the files of an SAE is said in one sentence that names it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sae_gap

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


def edit(folder, tensors=None, drop=(), name="sae_weights.safetensors"):
    held = load_file(folder / name) | (tensors or {})
    save_file(
        {key: np.ascontiguousarray(value) for key, value in held.items() if key not in drop},
        folder / name,
    )


def configure(folder, name="cfg.json", **entries):
    held = json.loads((folder / name).read_text()) | entries
    (folder / name).write_text(
        json.dumps({key: value for key, value in held.items() if value is not None})
    )


def weights(case):
    return load_file(FILES / case / "sae_weights.safetensors")


STANDARD = weights("saelens/standard")
SPOILT = STANDARD["W_dec"].copy()
SPOILT[3, 2] = np.nan
ENDLESS = np.where(np.arange(10) == 4, np.inf, STANDARD["b_enc"]).astype(np.float32)


@pytest.mark.parametrize(
    ("tensors", "drop", "words"),
    [
        ({}, ("W_enc",), ("no tensor W_enc", "W_dec")),
        ({"W_skip": np.zeros((6, 6), np.float32)}, (), ("holds W_skip", "standard")),
        ({"W_dec": STANDARD["W_dec"].T}, (), ("W_dec", "(6, 10)", "(10, 6)", "transpose it")),
        ({"b_enc": np.zeros(9, np.float32)}, (), ("b_enc", "(9,)", "(10,)", "belongs together")),
        ({"b_enc": np.zeros(10, np.int32)}, (), ("b_enc", "int32", "float32")),
        ({"W_dec": SPOILT}, (), ("W_dec", "NaN")),
        ({"b_enc": ENDLESS}, (), ("b_enc", "infinite")),
        ({"a\nb\x1b[31m": np.zeros(1, np.float32)}, (), ("holds a\N{REPLACEMENT CHARACTER}b",)),
        (
            {"scaling_factor": np.full(10, 2, np.float32)},
            (),
            ("scaling_factor", "finetuning_scaling_factor"),
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, tensors, drop, words):
    folder = copy(tmp_path, "saelens/standard")
    edit(folder, tensors, drop)
    refused(folder, str(folder), *words)


@pytest.mark.parametrize(
    ("case", "entries", "words"),
    [
        ("standard", {"d_sae": 11}, ("(10, 6)", "(11, 6)")),
        ("standard", {"d_in": 7}, ("(6,)", "(7,)")),
        ("standard", {"d_in": None}, ("d_in", "None")),
        ("standard", {"apply_b_dec_to_input": "yes"}, ("apply_b_dec_to_input", "true or false")),
        ("standard", {"architecture": "sorcery"}, ("sorcery", "matching_pursuit")),
        ("standard", {"d_out": 6}, ("transcoder",)),
        ("standard", {"architecture": 3}, ("architecture", "text")),
        ("standard", {"normalize_activations": "sphere"}, ("sphere", "layer_norm")),
        ("standard", {"reshape_activations": "hook_q"}, ("hook_q", "hook_z")),
        ("standard", {"metadata": [1]}, ("metadata", "object")),
        ("topk", {"k": 0}, ("k ", "0")),
        ("topk", {"architecture": "standard"}, ("has a k", "set architecture to topk")),
        ("jumprelu", {"architecture": "standard"}, ("threshold", "standard")),
        ("standard", {"architecture": "jumprelu"}, ("no tensor threshold",)),
        ("old", {"activation_fn_str": "tanh-relu"}, ("tanh-relu",)),
        ("pursuit", {"residual_threshold": "small"}, ("residual_threshold", "'small'")),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(tmp_path, case, entries, words):
    folder = copy(tmp_path, f"saelens/{case}")
    configure(folder, **entries)
    refused(folder, str(folder), *words)


@pytest.mark.parametrize(
    ("case", "name", "entries", "words"),
    [
        ("sparsify/layers.0", "cfg.json", {"transcode": True}, ("transcoder",)),
        ("sparsify/layers.0", "cfg.json", {"skip_connection": True}, ("skip",)),
        ("sparsify/layers.0", "cfg.json", {"activation": "softmax"}, ("softmax",)),
        ("sparsify/groupmax", "cfg.json", {"k": 5}, ("12 latents", "5 groups")),
        (
            "gemma_scope/second",
            "config.json",
            {"hf_hook_point_out": "elsewhere"},
            ("transcoder", "elsewhere"),
        ),
        (
            "dictionary_learning/topk",
            "config.json",
            {"trainer": {"dict_class": "CrossCoder"}},
            ("CrossCoder",),
        ),
        (
            "dictionary_learning/topk",
            "config.json",
            {"trainer": {"dict_class": "AutoEncoder"}},
            ("no tensor bias",),
        ),
    ],
)
def test_other_libraries_configurations_too(tmp_path, case, name, entries, words):
    folder = copy(tmp_path, case)
    configure(folder, name, **entries)
    refused(folder, *words)


def test_what_a_file_says_of_itself_is_shown_on_one_line_and_a_strange_version_is_an_old_one(
    tmp_path,
):
    folder = copy(tmp_path, "saelens/old")
    configure(folder, hook_point="blocks.0\n\x1b[31m" + "x" * 10_000, sae_lens_version="²")
    notes = sae_gap.load_sae(folder).notes
    assert notes["hook_name"].startswith("blocks.0\N{REPLACEMENT CHARACTER}") and all(
        map(str.isprintable, notes.values())
    )
    assert max(map(len, notes.values())) < 100


@pytest.mark.parametrize(
    "place",
    [
        "gemma-scope-2b-pt-transcoders/layer_3/width_16k",
        "gemma-scope-2/transcoder_all/layer_5",
        "x/clt",
    ],
)
def test_folders_of_gemma_scope_that_hold_no_saes(tmp_path, place):
    folder = tmp_path / place
    shutil.copytree(FILES / "gemma_scope/first", folder)
    refused(folder, "another layer")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"\xff\xfe",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b"null",
        b'{"d_in": 1e999}',
    ],
)
def test_what_is_no_configuration(tmp_path, content):
    folder = copy(tmp_path, "saelens/standard")
    (folder / "cfg.json").write_bytes(content)
    refused(folder, "cfg.json")


def test_a_skip_connection_is_refused_by_its_tensor(tmp_path):
    folder = copy(tmp_path, "sparsify/layers.0")
    edit(folder, {"W_skip": np.zeros((6, 6), np.float32)}, name="sae.safetensors")
    refused(folder, "W_skip", "skip connection")


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

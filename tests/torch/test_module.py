"""The modules of `sae_gap.torch`: the codes of JAX, gradients by differences, folders, and hooks."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, fixture, mark, raises
from torch import from_numpy
from torch.testing import assert_close

import sae_gap
from sae_gap import load_sae, save_sae
from sae_gap.core import LayerNorm, Model
from sae_gap.encoders import (
    BatchPursuit,
    JumpReLU,
    LearnedSteps,
    ScreenedPursuit,
    Threshold,
    TopK,
)
from sae_gap.saes import FIT, as_fit
from sae_gap.saes.saelens import CONFIG, WEIGHTS
from sae_gap.torch import SAE, pursuit, pursuit_codes
from tests.saes.examples import FILES, close, example, refused, transcoder
from tests.saes.test_libraries import CASES as CASES_OF_LIBRARIES
from tests.saes.test_libraries import expected as of_library

pytestmark = mark.filterwarnings("default")
WIDTH = 60
DIM = 24
COUNT = 50


def arrays(width=WIDTH, dim=DIM, count=COUNT):
    """Coherent atoms of many lengths, a bias, and noisy signals of few of them, one of zeros."""
    rng = default_rng(3)
    atoms = rng.normal(size=(width, dim)) + 0.5 * rng.normal(size=dim)
    atoms *= rng.uniform(0.3, 3, (width, 1)) / np.linalg.norm(
        atoms, axis=1, keepdims=True
    )
    bias = rng.normal(size=dim)
    codes = rng.uniform(0.5, 2, (count, width)) * (
        rng.uniform(size=(count, width)) < 0.08
    )
    x = codes @ atoms + bias + 0.3 * rng.normal(size=(count, dim))
    x[0] = bias
    return [array.astype(np.float32) for array in (atoms, bias, x)]


@fixture(params=["cpu", "elsewhere"])
def device(request, monkeypatch):
    """Tensors that the loops of a CPU take, and those of other devices."""
    if request.param == "elsewhere":
        monkeypatch.setattr(pursuit, "_on_host", lambda tensor: False)


def jax_codes(encoder, atoms, bias, x, threshold=None):
    parameters = None if threshold is None else Threshold(jnp.float32(threshold))
    return np.asarray(
        encoder(Model(jnp.asarray(atoms.T), jnp.asarray(bias), parameters), x)
    )


def tensors(*values):
    return [from_numpy(value) for value in values]


ATOMS, BIAS, X = arrays()
PAIR = tensors(ATOMS, BIAS)
ROWS = from_numpy(X)


@torch.no_grad()
@mark.parametrize("threshold", [None, 0.3])
def test_codes_are_those_of_jax(threshold, device):
    encoder = BatchPursuit if threshold else ScreenedPursuit
    expected = jax_codes(encoder(6, 3, 3), ATOMS, BIAS, X, threshold)
    sae = SAE(*PAIR, k=6, breadth=3, screens=3, threshold=threshold)
    sae.chunk = 7
    found = sae.encode(ROWS)
    close(found, expected)
    assert_array_equal(found != 0, expected != 0)
    assert not found[0].any() and 0 < (expected != 0).mean() < 0.5
    close(sae(ROWS), expected @ ATOMS + BIAS)


@torch.no_grad()
def test_a_pruned_pursuit_is_calibrated_as_in_jax(device):
    atoms, bias, x = arrays()
    atoms[50] = 0
    encoder = BatchPursuit(4, 3, 3)
    options = {"k": 4, "breadth": 3, "screens": 3}
    fitted = encoder.calibrate(Model(jnp.asarray(atoms.T), jnp.asarray(bias)), x)
    sae = SAE(*tensors(atoms, bias), **options).calibrate(from_numpy(x))
    assert sae.threshold.item() == approx(float(fitted.encoder.value), rel=1e-5)
    codes = sae.encode(from_numpy(x))
    # Atoms that go together are kept together.
    assert 0 <= (codes > 0).sum() - 4 * COUNT <= 1
    padded = from_numpy(np.pad(x, ((0, 2 * COUNT), (0, 0))))
    again = SAE(*tensors(atoms, bias), **options).calibrate(padded)
    assert again.threshold.item() == approx(sae.threshold.item(), rel=1e-6)
    # A pursuit of as many atoms keeps the threshold, one of fewer has none.
    assert torch.equal(sae.pursuit(**options).encode(from_numpy(x)), codes)
    assert sae.pursuit(3).threshold is None


@torch.no_grad()
@mark.parametrize("architecture", ["sae_gap_pursuit", "topk", "learned_steps"])
def test_half_precision_is_coded_in_float32_and_what_is_no_number_shows(architecture):
    atoms, bias, x = (part.bfloat16() for part in tensors(*arrays()))
    options = {"architecture": architecture, "W_enc": atoms.mT, "k": 6}
    if architecture == "learned_steps":
        inner = atoms[0, :9], atoms[:9].mT, atoms[:, :9].mT
        options["steps"] = *inner, atoms[:, 0], atoms.mT / 9
    half = SAE(atoms, bias, **options)
    single = SAE(atoms, bias, **options).float()
    single.chunk = 7
    x = x.reshape(5, -1, DIM)
    x[1, 2, 3] = torch.nan
    with torch.autocast("cpu", torch.bfloat16):
        codes = half.encode(x)
        again = half(x)
    assert codes.dtype == again.dtype == torch.bfloat16
    assert codes.shape == (5, 10, WIDTH)
    wanted = single.encode(x.float()).bfloat16()
    assert_close(codes, wanted, equal_nan=True)
    assert_close(again, single(x.float()).bfloat16(), equal_nan=True)
    rows = codes.isnan().reshape(COUNT, -1)
    assert again[1, 2].isnan().all() and rows.any(1).nonzero().tolist() == [[12]]
    assert rows[12].all() and half.decode(codes).dtype == torch.bfloat16
    # A row that is no number takes nothing from the others of its batch.
    assert (codes[0] > 0).sum() >= 6
    # So does a code that is no number.
    codes = half.refit(x.float(), codes)
    assert codes.isnan().reshape(COUNT, -1).all(1).nonzero().tolist() == [[12]]
    x[1, 2, 3] = 0
    codes[0, 0, 0] = torch.nan
    assert half.refit(x.float(), codes)[0, 0].isnan().all()


def test_gradients_reach_the_input_and_the_dictionary(device):
    """They are those of differences; and half a squared error at its least squares has r and z rᵀ,
    as if codes were held.
    """
    atoms, bias, x = tensors(*arrays(width=20, count=9))
    x = (x - bias)[1:].double().requires_grad_()
    weights = atoms.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weights: pursuit_codes(x, weights, k=4, breadth=2, chunk=3),
        (x, weights),
        fast_mode=True,
    )
    sae = SAE(atoms, k=4)
    codes = sae.encode(x.float())
    sae.refit(x.float(), codes).square().sum().backward()
    single = x.grad.clone(), sae.W_dec.grad.clone()
    x.grad = None
    pursuit_codes(x, weights, k=4).square().sum().backward()
    for found, expected in zip(single, (x.grad, weights.grad), strict=True):
        assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    sae.zero_grad()
    rest = sae(x.float()) - x.float()
    rest.square().sum().div(2).backward()
    assert_close(
        sae.W_dec.grad, codes.detach().mT @ rest.detach(), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_least_squares_on_a_support_are_those_of_numpy(device):
    codes = default_rng(5).uniform(size=(COUNT, WIDTH)) < 0.1
    sae = SAE(*PAIR, k=4)
    sae.chunk = 20
    found = sae.refit(*tensors(X, codes.astype(np.float32)))
    # Of codes with a sign.
    signed = sae.refit(*tensors(X, -codes.astype(np.float32)))
    for row, support, values, free in zip(
        X - BIAS, codes, found.numpy(), signed, strict=True
    ):
        best = np.linalg.lstsq(ATOMS[support].T.astype(np.float64), row, rcond=None)[0]
        assert_allclose(values[support], best.clip(0), atol=1e-4)
        assert_allclose(free[support], best, atol=1e-4)
        assert not values[~support].any()
    # On twins, and on more atoms than dimensions, it is the solution of least norm.
    unit = ATOMS / np.linalg.norm(ATOMS.astype(np.float64), axis=1, keepdims=True)
    for rows in (unit[[*range(9)] * 2], unit, np.tile(np.eye(DIM), (2, 1))):
        sae = SAE(*tensors(rows), architecture="dictionary")
        found = sae.refit(ROWS.double(), -torch.ones(COUNT, len(rows)))
        close(found, np.linalg.lstsq(rows.T, X.T, rcond=1e-6)[0].T, 1e-12)


@mark.parametrize("architecture", ["sae_gap_pursuit", "topk"])
def test_no_rows_have_no_codes(architecture):
    sae = SAE(*PAIR, PAIR[0].mT, architecture=architecture, k=2)
    codes = sae.encode(ROWS[None, :0])
    assert codes.shape == (1, 0, WIDTH)
    assert sae.refit(ROWS[:0], codes[0]).shape == (0, WIDTH)
    assert sae(ROWS[:0]).shape == (0, DIM)


# What SAELens has no form for.
UNSAVED = (
    "circuit_tracer/topk",
    "sparsify/layers.2.mlp",
    "sparsify/layers.3.mlp",
    "saelens/scaled",
    "saelens/whitened",
)


@torch.no_grad()
@mark.parametrize("case", CASES_OF_LIBRARIES)
def test_a_folder_of_any_library_has_its_own_codes_and_is_written_again(case, tmp_path):
    x, codes, reconstruction = of_library(case)
    given = from_numpy(x)
    sae = SAE.from_folder(FILES / case)
    saes = [sae]
    if sae.cfg.architecture == "dictionary":
        saes = []
        with raises(
            ValueError, match=r"no form in PyTorch here; code by sae\.pursuit\(k\)"
        ):
            sae(given)
    if sae.cfg.architecture == "dictionary" or case.endswith(UNSAVED):
        with raises(ValueError, match="SAELens has no form"):
            sae.save(tmp_path / "sae")
    else:
        sae.save(tmp_path / "sae")
        assert {path.name for path in (tmp_path / "sae").iterdir()} == {WEIGHTS, CONFIG}
        saes.append(SAE.from_folder(tmp_path / "sae"))
        close(load_sae(tmp_path / "sae").encode(x), codes)
    for one in saes:
        found = one.encode(given)
        assert_array_equal(found != 0, codes != 0)
        close(found, codes)
        close(one.decode(found, given), reconstruction)
        decoded = reconstruction
        if not sae.transcodes:
            decoded = decoded.reshape(x.shape)
        close(one(given), decoded)
    # On the target of JAX.
    loaded = load_sae(FILES / case)
    better = sae.pursuit(k=2)
    if sae.transcodes:
        noise = default_rng(0).normal(size=reconstruction.shape)
        y = reconstruction + noise.astype("f")
        target = loaded.target(y, x)
        signals = sae.signals(from_numpy(y), given)
        with raises(ValueError, match=r"code sae\.signals\(y, x\)"):
            SAE.from_folder(FILES / case, k=2)
    else:
        target = loaded.target(x)
        signals = given
        again = SAE.from_folder(FILES / case, k=2).encode(given)
        assert_close(again, better.encode(given))
    assert better.W_dec is sae.W_dec and (better.encode(signals) > 0).sum(1).max() == 2
    # A pursuit is an SAE of what it codes, which is at no hook if a skip is subtracted.
    hook = "hook_name_out" if sae.transcodes else "hook_name"
    hook = None if sae.W_skip is not None else sae.cfg.metadata.get(hook)
    assert better.cfg.metadata.get("hook_name") == hook
    if not case.endswith(("saelens/scaled", "saelens/whitened")):
        better.save(tmp_path / "better")
        again = SAE.from_folder(tmp_path / "better")
        assert_close(again.encode(signals), better.encode(signals))
    for name in ("model_name", "hook_name", "hook_name_out"):
        assert sae.cfg.metadata.get(name) == loaded.notes.get(name)
    expected = ScreenedPursuit(2)(Model(loaded.model.decoder, 0 * loaded.bias), target)
    close(better.encode(signals), expected)
    close(sae.refit(signals, better.encode(signals)), expected)


@torch.no_grad()
@mark.parametrize("threshold", [None, 0.3])
def test_a_pursuit_is_kept_by_folders_and_by_the_state(threshold, tmp_path):
    metadata = {"hook_name": "h", "context_size": 16}
    sae = SAE(*PAIR, k=5, breadth=3, threshold=threshold, metadata=metadata)
    codes = sae.encode(ROWS)
    assert sae.pursuit(3).cfg.metadata == metadata
    sae.save(tmp_path / "torch")
    with raises(ValueError, match="is there already"):
        sae.pursuit(3).save(tmp_path / "torch")
    loaded = load_sae(tmp_path / "torch")
    save_sae(loaded, tmp_path / "jax")
    close(loaded.encode(X), codes)
    for name in ("torch", "jax"):
        again = SAE.from_folder(tmp_path / name)
        assert_close(again.encode(ROWS), codes)
        assert again.cfg.metadata["hook_name"] == "h"
    assert SAE.from_folder(tmp_path / "torch").cfg.metadata["context_size"] == 16
    torch.save(sae.state_dict(), tmp_path / "state")
    for before in (None, 0.1):
        blank = SAE(torch.zeros(WIDTH, DIM), k=5, breadth=3, threshold=before)
        blank.load_state_dict(torch.load(tmp_path / "state"))
        assert_close(blank.encode(ROWS), codes)
        assert blank.cfg.pruned == (threshold is not None)
    assert blank.to("cpu", torch.float64).encode(ROWS).dtype == torch.float32


def test_a_dictionary_is_read_without_jax_and_the_import_loads_no_numba(tmp_path):
    learned = sae_gap.dictionary(ATOMS.T, BIAS, l0=2.6)
    learned.save(tmp_path / "learned")
    np.save(tmp_path / "x.npy", X)
    script = """
import sys
import numpy as np, torch
from sae_gap.torch import SAE
assert not {"numba", "optax", "matplotlib"} & {*sys.modules}
with torch.no_grad():
    np.save("z.npy", SAE.from_folder("learned").encode(torch.from_numpy(np.load("x.npy"))))
assert "jax" not in sys.modules
"""
    environment = {"PYTHONPATH": str(Path(sae_gap.__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True
    )
    codes = jax_codes(ScreenedPursuit(3), learned.atoms.T, learned.bias, X)
    close(np.load(tmp_path / "z.npy"), codes)


@torch.no_grad()
def test_a_fit_of_the_suite_has_its_codes(tmp_path):
    x = arrays(dim=6)[2]
    file = tmp_path / FIT
    models = [
        transcoder(TopK(3), num_inputs=6)[0],
        transcoder(JumpReLU(), num_inputs=6, skip=False)[0],
    ]
    models += map(example, ("topk", "jumprelu", "batchtopk"))
    for size in (0, 5):
        for count in (0, 1, 3, 11):
            models.append(example(LearnedSteps(2, count, hidden=size)))
    for model in models:
        file.write_bytes(as_fit(model, model.encode, {}))
        sae = SAE.from_folder(tmp_path)
        codes = model.encode(model, x)
        close(sae.encode(from_numpy(x)), codes)
        close(sae(from_numpy(x)), model.reconstruct(codes, x, x))


PLAIN = SAE(*PAIR, k=3)
W_DEC = PLAIN.W_dec


def opened(name):
    return SAE.from_folder(FILES / "saelens" / name)


def made(architecture="standard", **options):
    """Makes an SAE of these options."""
    options = {"W_dec": W_DEC, "W_enc": W_DEC.mT} | options
    return lambda: SAE(architecture=architecture, **options)


def pursued(**options):
    return lambda: SAE(**{"W_dec": W_DEC, "k": 3} | options)


REFUSED = {
    "b_dec must be (60)": pursued(W_dec=W_DEC.mT, b_dec=PAIR[1]),
    "needs W_enc, threshold": made("jumprelu", W_enc=None),
    "k must be at most the 24 dimensions and the 60": pursued(k=25),
    "topk has no breadth": made("topk", breadth=2),
    "architecture must be one of": made("gated"),
    "pursuit codes what it explains": pursued(W_skip=torch.zeros(24, 24)),
    "W_skip must be (24, 24)": made(W_skip=torch.zeros(9, 24)),
    "learned_steps codes what it explains": made("learned_steps", k=3, transcoder=True),
    "torch.save": lambda: made("learned_steps", k=3)().save("never"),
    "leave normalisation out": made(transcoder=True, normalisation=LayerNorm()),
    "W_dec must be finite": pursued(W_dec=torch.inf * W_DEC),
    "W_dec is an array of float32": pursued(W_dec=ATOMS),
    "threshold must be a finite number": pursued(threshold=-1.0),
    "give what it read": lambda: opened("transcoder_jumprelu_skip").decode(
        torch.ones(2, 10)
    ),
    "x must be (..., 5), but it is (50, 6)": lambda: opened("transcoder_jumprelu_skip")(
        ROWS[:, :6]
    ),
    "x is an array of float32": lambda: PLAIN.encode(X),
    "a row for each of x": lambda: PLAIN.refit(ROWS, torch.ones(COUNT - 1, WIDTH)),
    "codes must be (..., 60)": lambda: PLAIN.decode(ROWS),
    "on meta, but W_dec on cpu": lambda: PLAIN.encode(ROWS.to("meta")),
    "give like=x": lambda: opened("layer_norm").decode(torch.ones(2, 10)),
    "only a pursuit": lambda: opened("layer_norm").calibrate(ROWS[:, :6]),
    "beyond 65,504": lambda: PLAIN.calibrate((1e6 * ROWS).half()),
    "no threshold leaves so many": lambda: SAE(torch.eye(24), k=2).calibrate(
        -ROWS.abs()
    ),
    "give W_dec as": lambda: pursuit_codes(ROWS[:, 1:], W_DEC, k=3),
    "but it is 61; give fewer": lambda: pursuit_codes(ROWS, W_DEC, k=61),
}


@mark.parametrize("words", REFUSED)
def test_bad_input_is_refused_in_a_sentence(words):
    refused(REFUSED[words], words, kind=(ValueError, TypeError))


PAGE = (Path(sae_gap.__file__).parent / "saes" / "README.md").read_text()
BLOCKS = re.findall(
    r"^```python torch\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE
)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_sae(example("topk"), "my_sae")
    exec(BLOCKS[0], {"x": torch.randn(500, 6)})
    assert load_sae("my_pursuit").num_latents == 10


@mark.parametrize("threshold", [None, 0.3])
@mark.parametrize("learns", [False, True])
def test_the_host_reads_no_value_of_an_accelerator(threshold, learns, monkeypatch):
    """A tensor without values stands for one whose values the host would wait for."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    target = torch.empty(9, DIM, device="meta")
    atoms = torch.empty(WIDTH, DIM, device="meta")
    target.requires_grad_(learns)
    codes = pursuit_codes(target, atoms, k=6, screens=3, threshold=threshold)
    assert codes.shape == (9, WIDTH) and codes.requires_grad == learns
    places = torch.empty(9, 6, device="meta").long()
    on = torch.empty(9, 6, device="meta") > 0
    given = target, atoms, codes, places, on
    assert pursuit.least_squares(*given, anew=True).shape == (9, WIDTH)

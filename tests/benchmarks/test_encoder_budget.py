"""The encoder budget at smoke size: rows, table and figure, the count of operations, and one sentence for whatever is wrong."""

import contextlib
import csv
import io
import sys
from unittest import mock

import numpy as np
import pytest
from absl.testing import flagsaver
from matplotlib import image

from benchmarks import cli
from benchmarks import encoder_budget as binary
from sae_gap import Store, figures

TRAINED = ("relu", "topk", "jumprelu", "lista_1", "lista_2", "lista_4", "lista_8", "lista_16")


def call(*arguments):
    """Runs the binary in this process as a shell would: its exit code, and what it wrote on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    saved = flagsaver.save_flag_values(binary.FLAGS)
    with (
        mock.patch.object(sys, "argv", ["encoder_budget", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.run(binary.main, binary.FLAGS)
    flagsaver.restore_flag_values(saved, binary.FLAGS)
    return stop.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", params=sorted(binary.DICTIONARIES))
def smoke(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    code, out, err = call("--preset=smoke", f"--dictionary={request.param}", f"--results_dir={folder}")
    assert code == 0, err
    return request.param, folder, out


def read(smoke):
    name, folder, _ = smoke
    with (folder / "encoder_budget" / name / "summary.csv").open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_every_encoder_is_measured_on_one_dictionary(smoke):
    name, folder, out = smoke
    rows = Store(folder / "encoder_budget" / name).rows()
    assert sorted((row["method"], row["seed"]) for row in rows) == sorted((m, s) for m in binary.METHODS for s in (0, 1))
    for seed in (0, 1):
        assert len({(row["cosine"], row["certificate_ood"]) for row in rows if row["seed"] == seed}) == 1
    assert all(line.split()[0] == method for line, method in zip(out.splitlines()[2:], binary.METHODS, strict=True))
    assert set(TRAINED) < set(binary.METHODS)


def test_more_operations_leave_less_of_the_gap(smoke):
    found = {method: float(row["relative_gap_ood_mean"]) for method, row in read(smoke).items()}
    assert found["lista_16"] < found["lista_4"] < found["lista_1"]
    assert abs(found["lasso"]) < 2e-6 and found["fista_100"] < 1e-3 * found["fista_1"]
    assert all(found[method] > found["lasso"] for method in TRAINED)


def test_the_figure_is_a_picture(smoke):
    name, folder, _ = smoke
    picture = image.imread(folder / "encoder_budget" / name / "budget.png")
    drawn = (picture[:, :, :3] < 0.9).any(axis=2)
    half = len(drawn) // 2
    assert drawn[:half].mean() > 0.01 and drawn[half:].mean() > 0.01
    assert (folder / "encoder_budget" / name / "budget.pdf").read_bytes().startswith(b"%PDF-")


def test_what_is_there_is_not_run_again(smoke, monkeypatch):
    name, folder, out = smoke

    def never(*arguments):
        raise AssertionError("a finished job was run again")

    monkeypatch.setattr("sae_gap.study._run_job", never)
    assert call("--preset=smoke", f"--dictionary={name}", f"--results_dir={folder}")[:2] == (0, out)


def test_operations_are_those_of_the_products():
    input_dim, num_latents = 5, 7
    product = 2 * input_dim * num_latents
    assert binary.flops("relu", input_dim, num_latents) == product
    # y W; then twice z Dᵀ and the residual times W.
    assert binary.flops("lista_3", input_dim, num_latents) == 5 * product
    assert binary.flops("fista_1", input_dim, num_latents) == binary.flops("topk", input_dim, num_latents)
    assert binary.flops("lasso", input_dim, num_latents) is None


def test_operations_are_those_that_the_compiler_counts(task):
    import jax

    from sae_gap import Model
    from sae_gap.encoders.lista import LISTA

    input_dim, num_latents = task.dictionary.shape
    for depth in (1, 2):
        encoder = LISTA(depth)
        model = Model(task.dictionary, task.id.signals[0] * 0, encoder.parameters(task.dictionary))
        counted = jax.jit(encoder.__call__).lower(model, task.id.signals).compile().cost_analysis()["flops"]
        expected = binary.flops(f"lista_{depth}", input_dim, num_latents) * len(task.id.signals)
        # Beside the products there are additions and comparisons, each as many as there are codes or less.
        assert expected <= counted < expected + 12 * depth * task.id.signals.shape[0] * num_latents


def rows(methods, seeds=(0, 1), **values):
    base = {"study": "x", "num_latents": 20, "sparsity": 3, "num_samples": 200, "input_dim": 12}
    return [
        base
        | {"method": method, "seed": seed, "flops": binary.flops(method, 12, 20), "relative_gap_ood": 0.1, "mcc_ood": 0.9}
        | values
        for method in methods
        for seed in seeds
    ]


def test_the_figure_draws_what_there_is():
    assert figures.budget(rows(["lasso"])) is None and figures.budget([]) is None
    figure = figures.budget(rows(["relu", "lista_4", "lista_1"], mcc_ood=None))
    gap, mcc = figure.axes
    assert len(gap.lines) >= 2 and np.isfinite(gap.dataLim.get_points()).all()
    assert [text.get_text() for text in gap.texts if text.get_text() in ("1", "4")] == ["1", "4"]
    assert not [text for text in mcc.texts if text.get_text() in ("1", "4")]


@pytest.mark.parametrize(
    "flag",
    [
        *("--preset=huge", "--dictionary=mine", "--lam=0", "--lam=nan", "--num_latents=0", "--sparsity=100", "--num_samples=2"),
        *("--seeds=0,0", "--seeds=x", "--seeds=-1", "--num_latents=many", "--depth=3", "smoke"),
    ],
)
def test_bad_flags_are_one_sentence(flag, tmp_path):
    code, out, err = call(flag, f"--results_dir={tmp_path}")
    assert code == 2 and out == ""
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert not list(tmp_path.iterdir())

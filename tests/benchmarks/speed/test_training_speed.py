"""The benchmark of training steps at its smallest: every SAE timed, and one sentence for bad
flags.
"""

import csv
import re
from types import SimpleNamespace

import pytest

from benchmarks.speed import training_speed as binary
from sae_gap import Store

NAMES = [f"sae_{name}" for name in binary.SAES]


def test_every_sae_is_timed(call, tmp_path):
    options = ("--num_latents=30", "--num_seeds=2", "--num_steps=1", "--repeats=2")
    code, out, err = call("training_speed", *options, f"--results_dir={tmp_path}")
    assert (code, err) == (0, "") and [line.split()[0] for line in out.splitlines()[2:]] == NAMES
    rows = Store(tmp_path / "training_speed").rows()
    assert [(row["method"], row["num_seeds"]) for row in rows] == [(name, 2) for name in NAMES]
    with (tmp_path / "training_speed" / "summary.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows) == 4
    assert all(
        0 < float(line["step_us_mean"]) <= float(line["step_us_median_mean"]) for line in lines
    )


@pytest.mark.parametrize("flag", ["--num_latents=many", "--num_latents=5", "--num_seeds=0"])
def test_bad_flags_are_one_sentence(flag, call, tmp_path):
    code, out, err = call("training_speed", flag, f"--results_dir={tmp_path / 'results'}")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"[^\n]+\.\n", err)
    assert not (tmp_path / "results").exists()


def test_a_step_is_the_time_of_a_fit_without_compilation_over_its_steps_and_seeds(monkeypatch):
    clock = iter([100.0, 107.0])

    def fit(learner, tasks, keys):
        assert (learner.num_steps, len(tasks), len(keys)) == (2, 3, 3)
        return [SimpleNamespace(compile_seconds=1.0)]

    monkeypatch.setattr(binary, "fit", fit)
    # 2,500 samples in batches of 64 are 40 steps, of which 41 to 80 are two epochs.
    train = binary.prepare("topk", 30, 3, 41)
    monkeypatch.setattr(binary.time, "perf_counter", lambda: next(clock))
    assert train() == pytest.approx(6.0 / (80 * 3) * 1e6)

"""Learning from a stream at the smallest size: its row, a stop and a restart, and one sentence for
bad flags.
"""

import re

import numpy as np
import pytest

from benchmarks.speed import learn_stream as binary
from sae_gap import Setting, Store, match_atoms
from sae_gap.data.paper_stream import Stream

SMALL = [
    "--width=20",
    "--sparsity=2",
    "--num_samples=500",
    "--passes=2",
    "--num_steps=10",
    "--every=0",
]


def test_a_run_that_was_stopped_goes_on_and_says_what_it_found(call, tmp_path, monkeypatch):
    asked, drawn = [], Stream.__call__

    def counted(self, start, count):
        asked.extend(range(start, start + count))
        return drawn(self, start, count)

    monkeypatch.setattr(Stream, "__call__", counted)
    for options in (("--rounds=4",), ()):
        code, out, err = call("learn_stream", *SMALL, *options, f"--results_dir={tmp_path}")
        assert (code, err) == (0, "") and out.splitlines()[0].startswith("latents")
    stopped, whole = sorted(Store(tmp_path / "learn_stream").rows(), key=lambda row: row["rounds"])
    assert (stopped["rounds"], whole["rounds"]) == (4, 10)
    assert stopped["cosine"] < whole["cosine"] <= 1 and 0 < whole["distinct"] <= 1
    assert whole["round_seconds"] > 0
    assert whole["processor_seconds"] > 0
    assert 0.05 < whole["memory"] < 64
    # The stream has no more samples than it was said to, and its second pass has those of the
    # first. The first is asked for once more to tell whether it is the same fit that goes on.
    assert max(asked) == 499 and asked.count(0) == 3
    assert not list(tmp_path.glob("learn_stream/checkpoints/*"))


def test_other_rates_are_another_fit(call, tmp_path):
    for rates in ((), ("--rates=0.4,0.1,0.02",), ("--rates=0.5,0.05,0.01",)):
        options = ("--rounds=1", f"--results_dir={tmp_path}", *rates)
        assert call("learn_stream", *SMALL, *options)[0] == 0
    cosine = {row.get("rates"): row["cosine"] for row in Store(tmp_path / "learn_stream").rows()}
    assert set(cosine) == {None, "0.4,0.1,0.02", "0.5,0.05,0.01"}
    assert cosine[None] == cosine["0.5,0.05,0.01"] != cosine["0.4,0.1,0.02"]


def test_where_all_are_distinct_the_nearest_are_the_best_assignment():
    truth = Stream(Setting(300, 3, 10, stream=True)).dictionary
    noise = np.random.default_rng(0).normal(size=truth.shape).astype("float32")
    learned = truth[:, ::-1] + 0.1 * noise
    learned /= np.linalg.norm(learned, axis=0)
    found, matched = binary.recovery(3 * learned, truth), np.abs(match_atoms(learned, truth).cosine)
    assert found["distinct"] == 1 and found["close"] == np.mean(matched > 0.9)
    assert found["cosine"] == pytest.approx(matched.mean(), abs=1e-6)


@pytest.mark.parametrize(
    "flag",
    ["--width=5", "--num_samples=9", "--rates=0.5,x,0.1", "--rates=0.5,0.1", "--rates=0.5,0.1,-1"],
)
def test_bad_flags_are_one_sentence(flag, call, tmp_path):
    code, out, err = call("learn_stream", flag, f"--results_dir={tmp_path / 'results'}")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"[^\n]+\.\n", err)
    assert not (tmp_path / "results").exists()

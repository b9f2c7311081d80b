"""A study in two processes: the rows of one process, whoever is killed on the way, and nothing of a run that cannot be."""

import json
import signal
import time

import pytest

STUDY = ("--preset=smoke", "--seeds=0", "--methods=sae_relu,sae_topk")
IN_TWO = ("-m", "benchmarks.studies.amortisation_gap", *STUDY, "--distributed")
ELSEWHERE = ("--coordinator=localhost:{port}", "--num_processes=2", "--process_id={process}")


def read_rows(folder):
    path = folder / "amortisation_gap" / "rows.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["method"]: row for row in map(json.loads, lines)}


def wait_for(running, there):
    """Until something is there, while both processes run."""
    while not there():
        assert all(process.poll() is None for process in running.processes), running.end()
        time.sleep(0.02)


def test_two_processes_are_killed_and_resumed_and_end_with_the_rows_of_one(pair, call, tmp_path):
    def start():
        return pair((*IN_TWO, *ELSEWHERE, f"--results_dir={tmp_path}"))

    running = start()
    # The first method has its row, and the second its model and no row yet.
    wait_for(running, lambda: list(tmp_path.glob("models/topk-*/*-end.npz")))
    running.processes[1].send_signal(signal.SIGKILL)
    codes, _, err = running.end()
    # In what they do together it is noticed at once and in our words, elsewhere by JAX.
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, 2)
    assert "another process of this run has ended" in err[0] or "another task died" in err[0], err[0]
    assert "Traceback" not in err[0]
    kept = read_rows(tmp_path)
    models = {path: path.stat().st_mtime_ns for path in tmp_path.glob("models/*/*-end.npz")}
    assert kept.keys() == {"sae_relu"} and len(models) == 2

    codes, out, err = start().end()
    assert codes == [0, 0], err
    assert "Recovery" in out[0] and "2/2: sae_topk" in err[0]
    # The other process writes and says nothing.
    assert (out[1], err[1]) == ("", "")
    rows = read_rows(tmp_path)
    assert kept.items() <= rows.items() and models == {path: path.stat().st_mtime_ns for path in models}
    assert (tmp_path / "amortisation_gap" / "README.md").exists() and not list(tmp_path.glob("**/state*"))

    alone = tmp_path / "alone"
    assert call("amortisation_gap", *STUDY, f"--results_dir={alone}")[0] == 0
    expected = read_rows(alone)
    assert rows.keys() == expected.keys() and len(rows) == 2
    for method, row in rows.items():
        assert row.keys() == expected[method].keys() and row["device"].startswith("4 x cpu")
        for name, value in row.items():
            # The accuracy is of a probe that on separable codes is wherever L-BFGS has stopped; see `fit_logistic`.
            if name.endswith("_seconds") or name.startswith("accuracy"):
                continue
            if isinstance(value, float):
                assert value == pytest.approx(expected[method][name], abs=1e-5), (method, name)
            elif name == "cosines":
                # To four decimals, the last of which rounding may turn.
                assert value == pytest.approx(expected[method][name], abs=1.1e-4), method
            elif name not in ("device", "fit_device", "checksum", "job", "job_rows"):
                assert value == expected[method][name], (method, name)


def test_processes_that_slurm_starts_with_different_flags_are_named_and_stopped(pair, tmp_path):
    slurm = {"SLURM_JOB_ID": "{port}", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    slurm |= {"SLURM_NTASKS": "2", "SLURM_PROCID": "{process}", "SLURM_LOCALID": "{process}"}
    running = pair((*IN_TWO, "--lam=0.{process}1", f"--results_dir={tmp_path / 'none'}"), **slurm)
    codes, out, err = running.end()
    assert codes == [2, 2] and out == ["", ""]
    assert err == ["process 1 differs from process 0 in lam (0.11, not 0.01); start all processes alike.\n"] * 2
    assert not (tmp_path / "none").exists()


def test_who_waits_in_vain_ends_by_a_sentence(pair, tmp_path):
    # The first waits for others to come, the second where nobody is.
    away = "--coordinator=localhost:{process}", "--num_processes=3", "--process_id={process}", "--coordinator_timeout=1"
    codes, out, err = pair((*IN_TWO, *away, f"--results_dir={tmp_path / 'none'}")).end()
    assert codes == [2, 2] and out == ["", ""], err
    assert (
        err[1] == "the coordinator localhost:1 did not answer within 1 s; check its address, and that process 0 was started.\n"
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--coordinator=localhost:80",), "--coordinator is of use with --distributed alone"),
        (("--distributed", "--process_id=1"), "--process_id needs --coordinator, --num_processes as well"),
        (("--distributed", "--coordinator=localhost", "--num_processes=2", "--process_id=0"), "host:port"),
        (("--distributed", "--coordinator=localhost:80", "--num_processes=0", "--process_id=0"), "1 or more, but it is 0"),
        (("--distributed", "--coordinator=localhost:80", "--num_processes=2", "--process_id=2"), "from 0 to 1"),
        (("--distributed", "--num_processes=two"), "num_processes"),
    ],
)
@pytest.mark.parametrize("binary", ["vary_latents", "all", "train_real", "measure_sae", "learn_stream"])
def test_flags_that_do_not_fit_are_refused(call, tmp_path, binary, flags, fault):
    code, out, err = call(binary, *flags, f"--results_dir={tmp_path / 'none'}")
    assert (code, out) == (2, "") and fault in err and err.count("\n") == 1
    assert not (tmp_path / "none").exists()

"""A study in two processes: each codes its share of the jobs, and together they leave the rows of
one.
"""

import pytest

from sae_gap import Store
from tests.conftest import page_of

STUDY = ("--preset=smoke", "--seeds=0", "--methods=sae_relu,sae_topk")
IN_TWO = ("--distributed", "--coordinator=localhost:{port}", "--num_processes=2")
IN_TWO += ("--process_id={process}",)
VARY = ("device", "fit_device", "job")


def by_method(rows):
    kept = ("sae_relu", "sae_topk")
    return {row["method"]: row for row in rows if row["seed"] == 0 and row["method"] in kept}


def test_two_processes_end_with_the_rows_of_one(smoke, pair, call, tmp_path):
    run = ("-m", "sae_gap", "amortisation_gap", *STUDY, *IN_TWO, f"--results_dir={tmp_path}")
    codes, out, err = pair(run).end()
    assert codes == [0, 0], err
    assert "Recovery" in out[0] and (out[1], err[1]) == ("", "")
    assert len(list(tmp_path.glob("amortisation_gap/rows/*.json"))) == 2
    assert (page_of(tmp_path) / "README.md").exists() and not list(tmp_path.glob("**/state*"))
    store = Store(tmp_path / "amortisation_gap")
    rows, expected = by_method(store.rows()), by_method(smoke.rows)
    assert len(rows) == len(store.rows()) == 2
    for method, row in rows.items():
        for name, value in row.items():
            # On separable codes the accuracy is of a probe that is wherever L-BFGS has stopped.
            if name.endswith("_seconds") or name.startswith("accuracy") or name in VARY:
                continue
            if isinstance(value, float):
                assert value == pytest.approx(expected[method][name], abs=1e-5), (method, name)
            elif name == "cosines":
                # To four decimals, the last of which rounding may turn.
                assert value == pytest.approx(expected[method][name], abs=1.1e-4), method
            else:
                assert value == expected[method][name], (method, name)
    # Started again, by one process alone, nothing is left to do.
    assert call("amortisation_gap", *STUDY, f"--results_dir={tmp_path}")[0] == 0
    assert by_method(store.rows()) == rows


def test_an_address_without_the_flag_is_refused(call, tmp_path):
    options = ("--coordinator=localhost:1", f"--results_dir={tmp_path / 'none'}")
    code, out, err = call("vary_latents", *options)
    assert (code, out) == (2, "") and err.startswith("--coordinator goes with --distributed;")

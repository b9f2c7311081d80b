"""What a line counts, how long it says the rest takes, and when the log has it; by a clock of the
test.
"""

import concurrent.futures
import queue
import re
import threading

import numpy as np
from numpy.random import default_rng
from pytest import fixture, mark

from benchmarks.real import train_real
from sae_gap import Store, run, save_activations
from sae_gap.runtime import progress
from sae_gap.study import loop, models
from tests.tiny import METHODS, SETTING, make, timeless


@fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress, "seconds", lambda: now[0])
    return now


def shown_left(line):
    """The seconds left that tqdm writes."""
    known = line.format_dict
    return (known["total"] - known["n"]) / known["rate"] if known["rate"] else None


def test_the_rest_of_unequal_fits_and_rows_is_told_within_a_factor_of_two(clock):
    """Two kinds of fits, of 100 and 700 seconds, and quick rows; two fits resume, three rows are
    stored.
    """
    costs: dict = {("a", place): 100.0 for place in range(4)}
    costs |= {("b", place): 700.0 for place in range(4)} | {
        ("r", place): 5.0 for place in range(8)
    }
    rows = [name for name in costs if name[0] == "r"]
    with progress.line(shown=False) as line:
        line.begin([name for name in costs if name not in rows], rows, done=3)
        assert (line.n, line.total, shown_left(line)) == (3, 19, None)
        begins = {("a", 0): 0.75, ("b", 0): 0.5}
        left = sum(cost * (1 - begins.get(name, 0)) for name, cost in costs.items())
        for turn in range(4):
            for name in (
                ("a", turn),
                ("b", turn),
                ("r", 2 * turn),
                ("r", 2 * turn + 1),
            ):
                begun = begins.get(name, 0)
                if name not in rows:
                    line.report(name, begun)
                shares = [0.75, 1.0] if begun == 0.5 else [1.0]
                for before, share in zip([begun, *shares], shares, strict=False):
                    spent = costs[name] * (share - before)
                    clock[0] += spent
                    left -= spent
                    line.report(name, share)
                if turn and left:
                    assert left / 2 <= shown_left(line) <= 2 * left
        assert line.n == line.total == 19 and not line.report("unknown")


def test_seeds_in_parallel_add_up(clock):
    with progress.line(shown=False) as line:
        line.begin(range(4))
        meet = threading.Barrier(4)

        def run(place):
            meet.wait(timeout=60)
            for share in range(9):
                line.report(place, share / 8)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert [*pool.map(run, range(4))] == [None] * 4
        assert line.n == line.total == 4 == line.gained["fit"]


def of_runner(folder):
    run(make(SETTING, methods=METHODS[1:2], metrics=()), Store(folder))


def of_train_real(folder):
    rows = default_rng(0).normal(size=(200, 8)).astype(np.float32)
    save_activations(folder / "x.npz", rows, np.arange(200) // 10)
    options = {"activations": str(folder / "x.npz"), "methods": ("topk",), "width": 16}
    options |= {"sparsity": 3, "epochs": 2, "samples": 20, "results_dir": str(folder)}
    train_real.train(train_real.TrainOptions(**options))


@mark.parametrize("door", [of_runner, of_train_real])
def test_the_log_has_a_line_a_minute_within_a_fit(tmp_path, monkeypatch, door):
    report = progress.Line.report
    said = queue.Queue()
    told = []
    assert progress.EVERY == 60

    def slow(line, name, share=1.0):
        report(line, name, share)
        if share == 0.5:
            said.queue.clear()
            # The first may be older than this report.
            told.extend(said.get(timeout=60) for _ in range(2))

    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr(
        progress.logging, "info", lambda form, *rest: said.put(form % rest)
    )
    monkeypatch.setattr(progress, "_somebody_looks", lambda: False)
    monkeypatch.setattr(progress.Line, "report", slow)
    monkeypatch.setattr(loop, "REPORT_EVERY", 0.0)
    door(tmp_path)
    assert re.search(r": 0.5 of \d fits and rows in 00:\d\d, \d\d:\d\d left", told[1])


def test_after_the_minutes_nothing_is_started_and_the_same_command_goes_on(
    tmp_path, monkeypatch, clock
):
    """Each row, and the fit of both seeds, takes a minute: a run of one minute does one of them."""
    study = make(methods=METHODS[1:], metrics=())
    whole = run(study, Store(tmp_path / "whole"))
    put = Store.put
    fit = models.fit
    done = []

    def timed(inner):
        def made(first, *args, **options):
            # The oracle takes no step, and no time.
            if getattr(first, "num_steps", 1):
                clock[0] += 60
                done.append(first)
            return inner(first, *args, **options)

        return made

    monkeypatch.setattr(Store, "put", timed(put))
    monkeypatch.setattr(models, "fit", timed(fit))
    counts = []
    while True:
        progress.limit(1)
        done.clear()
        try:
            rows = run(study, Store(tmp_path / "parts"))
            break
        except progress.UnfinishedError as error:
            there = {row["key"] for row in error.rows}
            left = len(whole) - len(there)
            lacking = {row["dictionary"] for row in whole if row["key"] not in there}
            assert left and len(done) == 1 and error.dictionaries == lacking
            assert re.match(
                rf"{left} of \d fits and rows of tiny are left, since", error.text
            )
            counts.append(len(error.rows))
    progress.limit(np.inf)
    assert counts == [0, *range(1, len(whole))] and timeless(rows) == timeless(whole)

"""A study, a training, a measurement, fits and a stream in two processes of two devices each: they
share the work, and together they leave what one would.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import pickle
import random
import re
import socket
import subprocess
import sys
from dataclasses import replace

import jax
from numpy.testing import assert_allclose
from pytest import approx, fixture, raises

from sae_gap import Models, Store, draw, fit_stream
from sae_gap.runtime import distributed
from tests import tiny
from tests.benchmarks.in_two import ONLINE, SAE, SETTING, SIGNALS
from tests.conftest import IN_ONE, refused, succeed

IN_TWO = "--distributed --coordinator=localhost:{port} --num_processes=2 --process_id={process}"
STUDY = "amortisation_gap --preset=smoke --seeds=0 --methods=sae_topk"
TRAIN = "train_real --methods=topk --width=16 --sparsity=3 --epochs=2 --samples=50"

TWO_DEVICES = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
# [Gloo] Rank 1 is connected to 1 peer ranks. Expected ..., which its threads write piece by piece
# between what a program prints.
GREETING = re.compile(
    r"(\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :)"
    r"[ \d]*\n?"
)


def free_port():
    """A port that nobody listens at, and below those that a system gives to whoever calls
    another.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError("no port is free")


def run_in_two(words, folder):
    """Runs a command line of Python in two processes of two devices each. In it `{process}` is the
    number of each and `{port}` a free port, the same for both.

    Returns:
      The exit codes, and what each wrote on stdout, less Gloo's greetings, and on stderr.
    """
    port = free_port()
    shared = {"XLA_FLAGS": TWO_DEVICES, "FOLDER": str(folder)}
    processes = []
    for process in range(2):
        filled = [word.format(process=process, port=port) for word in words]
        processes.append(
            subprocess.Popen(
                [sys.executable, *filled],
                env=os.environ | shared | {"PROCESS": str(process)},
                cwd=pathlib.Path(__file__).parents[2],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        written = list(
            pool.map(lambda process: process.communicate(timeout=150), processes)
        )
    codes = [process.returncode for process in processes]
    return (
        codes,
        [GREETING.sub("", out) for out, _ in written],
        [err for _, err in written],
    )


@fixture(scope="module")
def commands(tmp_path_factory):
    """What is run in a folder for results, one after the other."""
    file = tmp_path_factory.mktemp("rows") / "x.npz"
    tiny.write_rows(file, latents=16, dim=8, k=3)

    def of(folder):
        given = f"--activations={file} --results_dir={folder}"
        measure = f"measure --controls=none --sae={folder}/train_real/topk {given}"
        study = f"{STUDY} --results_dir={folder}"
        return [words.split() for words in (study, f"{TRAIN} {given}", measure)]

    return of


@fixture(scope="module")
def two(commands, tmp_path_factory):
    """The folder of two processes, which run all in one go, and the models of each."""
    folder = tmp_path_factory.mktemp("two")
    study, *others = commands(folder)
    # Else a process that fails would wait for the other, which waits for it.
    hook = "import os, sys\nsys.excepthook = lambda *e: (sys.__excepthook__(*e), os._exit(1))\n"
    then = "from tests.benchmarks.in_two import CODE\nexec(CODE)"
    words = [
        *study,
        *IN_TWO.split(),
        *(word for words in others for word in ("then", *words)),
    ]
    codes, out, err = run_in_two(["-c", hook + IN_ONE + then, *words], folder)
    # The first alone says what was found.
    assert codes == [0, 0] and re.sub(r"\s|\d", "", out[1]) == "thenthen", err
    assert "Recovery" in out[0] and "Reconstruction" in out[0]
    assert "running sae" in err[0] and "running sae" not in err[1]
    return folder, [
        pickle.loads((folder / f"found{at}.pkl").read_bytes()) for at in range(2)
    ]


def numbers(folder, binary):
    """The numbers of rows that no clock decides. On separable codes the accuracy is of a probe that
    is wherever L-BFGS has stopped.
    """
    return {
        tuple(map(row.get, ("dictionary", "codes", "level", "times"))): {
            name: value
            for name, value in row.items()
            if isinstance(value, float) and not re.search("seconds$|^accuracy", name)
        }
        for row in Store(folder / binary).rows()
    }


def test_two_processes_leave_the_rows_of_one(two, commands, tmp_path):
    folder, _ = two
    assert len(list(folder.glob("amortisation_gap/rows/*.json"))) == 1
    assert not list(folder.glob("models/*/state*"))
    for words in commands(tmp_path):
        succeed(*words)
    for binary, many in (("amortisation_gap", 1), ("train_real", 4), ("measure", 7)):
        found, expected = (numbers(results, binary) for results in (folder, tmp_path))
        assert len(found) >= many
        for place, row in found.items():
            assert row == approx(expected[place], rel=1e-5, abs=1e-5), place
    assert {row["device"][:7] for row in Store(folder / "train_real").rows()} == {
        "4 x cpu"
    }


def test_two_processes_fit_and_share_a_stream_as_one(two):
    (fit,) = Models().fit(SAE, [SETTING], [draw(SETTING)])
    stream = fit_stream(ONLINE, SIGNALS, num_latents=64, key=jax.random.key(0))
    alone = [
        replace(one, encode=None) for one in (fit.end.model, fit.end.model, stream)
    ]
    for found in two[1]:
        for one, other in zip(*map(jax.tree.leaves, (found, alone)), strict=True):
            assert_allclose(one, other, atol=1e-5)


def test_a_process_by_itself_pays_nothing():
    thing = object()
    assert (distributed.count(), distributed.index(), distributed.is_first()) == (
        1,
        0,
        True,
    )
    assert (
        distributed.gather(thing) == [thing] and distributed.from_first(thing) is thing
    )
    distributed.wait("nobody")
    distributed.leave(3)


def test_half_of_an_address_is_refused(tmp_path):
    options = ("--coordinator=localhost:1", f"--results_dir={tmp_path}")
    refused("--coordinator goes with --distributed;", "vary_latents", *options)
    with raises(ValueError, match="go together"):
        distributed.start("localhost:1234", 2)

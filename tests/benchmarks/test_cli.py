"""What every binary shares: ends by signals and errors in one sentence, help with exit code 0, and
options that are what their fields allow, from Python and from flags alike.
"""

import dataclasses
import errno
import re
import signal
import subprocess
import sys
from pathlib import Path

from pytest import mark, raises

from benchmarks import cli
from benchmarks.options import Options, define, option, parse, written
from sae_gap import __main__ as command
from tests.conftest import call_binary, flags_of

WORK = ("-m", "sae_gap", "learning_dynamics", "--num_latents=200", "--methods=sae_mp")


def test_a_signal_ends_a_run_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, *WORK, f"--results_dir={tmp_path}"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # At work in a compiled loop.
    assert any("fitting for sae_mp" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "terminated; the same command goes on from what is saved.\n" in said


MEMORY = "there is not enough memory"


@mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), MEMORY),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\n  in a page\n  of lines"),
            MEMORY,
        ),
        (
            OSError(errno.ENOSPC, "No space left"),
            "a file could not be .* \\(No space left\\)",
        ),
        (
            PermissionError(errno.EACCES, "Denied", "a/b"),
            "a/b could not be .* \\(Denied\\)",
        ),
        (OSError("gs://a/b cannot be written (gone)."), "gs://a/b cannot be"),
        (ValueError("give more."), "give more"),
        # As JAX does it for a device that is not there, and for a platform without its plugin.
        (
            RuntimeError("Unable to initialize backend"),
            "JAX finds no device of JAX_PLATFORMS=cuda",
        ),
        (AssertionError(), "JAX finds no device of"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(monkeypatch, tmp_path, error, sentence):
    def fail(*_):
        raise error

    if sentence.startswith("JAX"):
        monkeypatch.setattr("jax.local_devices", fail)
        monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr("benchmarks.speed.problems.draw", fail)
    code, out, err = call_binary("solver_speed", f"--results_dir={tmp_path}")
    assert (code, out, err.count("\n")) == (2, "", 1) and re.match(sentence, err)


def test_a_fault_of_the_suite_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.speed.problems.draw", lambda cell: 1 / 0)
    with raises(ZeroDivisionError):
        call_binary("solver_speed", f"--results_dir={tmp_path}")


@mark.parametrize("name", command.binaries())
def test_help_names_the_purpose_and_every_flag(name):
    words = [call_binary(name, word) for word in ("--help", "-h")]
    assert words[0] == words[1] and words[0][::2] == (0, "")
    out = words[0][1]
    purpose, *_ = out.split("\n\n")
    assert purpose[0].isupper() and purpose[-1] in ".?"
    named = {*re.findall(r"^  --(?:\[no\])?([a-z_0-9]+):", out, flags=re.MULTILINE)}
    assert {*flags_of(name)} - {"help"} == named


@mark.parametrize("text", ["2/2", "-1/2", "one", "0/1/2"])
def test_shards_are_read_and_refused(text):
    assert cli.parse_shard("2/3") == (2, 3)
    with raises(ValueError, match=r"^--shard must .*\.$"):
        cli.parse_shard(text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Some(Options):
    size: int = option(3, "A size.", least=0)
    rate: float | None = option(None, "A rate.", least=0)
    kind: str = option("a", "A kind.", choices=("a", "b"))
    seeds: tuple[int, ...] = option((0, 1), "Seeds.", least=0)
    kinds: tuple[str, ...] = option((), "Kinds.", choices=("a", "b"))
    dry: bool = option(False, "Dry.")
    ends: tuple[float, float] | None = option(None, "Ends.")


def read(*arguments):
    return parse(Some, ["binary", *arguments])


def test_flags_give_what_python_gives(caplog):
    assert read() == Some()
    given = Some(size=0, rate=0.5, kind="b", seeds=(2, 0), kinds=("b",), dry=True)
    flags = "--size=0", "--rate", "0.5", "--kind=b", "--seeds=2,0", "--kinds=b", "--dry"
    assert read(*flags) == read(*written(given)) == given
    assert read("--nodry", "--ends=0.5,0.5", "--rate=none") == Some(ends=(0.5, 0.5))
    assert not caplog.messages and read("--size=1", "--size=2").size == 2
    assert caplog.messages == ["--size is given more than once; the last one counts."]
    text = define(Some).get_help()
    assert "[3]" in text and "[0,1]" in text and "A rate.\n" in text
    with raises(ValueError, match="--seeds must list different"):
        Some(seeds=(1, 1))


INTEGER = "must be an integer of at least 0 and below 2**31, but it is"
REFUSED = {
    "--size=1.5": f"--size {INTEGER} '1.5'.",
    "--rate=nan": "--rate must be a finite number of at least 0, but it is nan.",
    "--kind=c": "--kind must be one of a, b, but it is 'c'.",
    "--seeds=": "--seeds must be a tuple of one or more values, but it is ().",
    "--seeds=1,1": "--seeds must list different values, but 1 comes twice.",
    "--seeds=1,-1": f"an entry of --seeds {INTEGER} -1.",
    "--kinds=a,c": "an entry of --kinds must be one of a, b, but it is 'c'.",
    "--ends=0.5": "--ends must be a tuple of 2 values, but it is (0.5,).",
    "--dry=3": "flag --dry=3: ('Non-boolean argument to boolean flag', '3'); see --help.",
}


@mark.parametrize("flag", REFUSED)
def test_what_an_option_cannot_be_is_one_sentence(flag):
    with raises(ValueError, match=f"^{re.escape(REFUSED[flag])}$"):
        read(flag)

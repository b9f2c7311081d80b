"""Options are what their fields allow, from Python and from flags alike."""

import dataclasses
import re

import pytest

from benchmarks.options import Options, Results, define, option, parse, written


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


def test_flags_give_what_python_gives():
    assert read() == Some()
    given = Some(size=0, rate=0.5, kind="b", seeds=(2, 0), kinds=("b",), dry=True)
    flags = "--size=0", "--rate", "0.5", "--kind=b", "--seeds=2,0", "--kinds=b", "--dry"
    assert read(*flags) == read(*written(given)) == given
    assert read("--nodry", "--ends=0.5,0.5", "--rate=none") == Some(ends=(0.5, 0.5))
    text = define(Some).get_help()
    assert "[3]" in text and "[0,1]" in text and "A rate.\n" in text


INTEGER = "must be an integer of at least 0 and below 2**31, but it is"
REFUSED = {
    "--size=-1": f"--size {INTEGER} -1.",
    "--size=1.5": f"--size {INTEGER} '1.5'.",
    "--rate=nan": "--rate must be a finite number of at least 0, but it is nan.",
    "--rate=-1.0": "--rate must be a finite number of at least 0, but it is -1.0.",
    "--kind=c": "--kind must be one of a, b, but it is 'c'.",
    "--seeds=": "--seeds must be a tuple of one or more values, but it is ().",
    "--seeds=1,1": "--seeds must list different values, but 1 comes twice.",
    "--seeds=1,-1": f"an entry of --seeds {INTEGER} -1.",
    "--seeds=1,x": f"an entry of --seeds {INTEGER} 'x'.",
    "--kinds=a,c": "an entry of --kinds must be one of a, b, but it is 'c'.",
    "--ends=0.5": "--ends must be a tuple of 2 values, but it is (0.5,).",
    "--dry=3": "flag --dry=3: ('Non-boolean argument to boolean flag', '3'); see --help.",
}


@pytest.mark.parametrize("flag", REFUSED)
def test_what_an_option_cannot_be_is_one_sentence(flag):
    with pytest.raises(ValueError, match=f"^{re.escape(REFUSED[flag])}$"):
        read(flag)


def test_limits_hold_from_python_too():
    with pytest.raises(ValueError, match="--seeds must list different"):
        Some(seeds=(1, 1))
    with pytest.raises(ValueError, match="--seeds must be a tuple"):
        Some(seeds=1)


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="results cannot be written to"):
        Results(results_dir=str(tmp_path / "file")).folder("mine")

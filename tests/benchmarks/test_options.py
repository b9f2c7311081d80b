"""Options are what their fields allow, from Python and from flags alike."""

import dataclasses
import re

import pytest

from benchmarks import cli
from benchmarks.options import Options, define, given, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Some(Options):
    size: int = option(3, "A size.", least=0)
    rate: float | None = option(None, "A rate.", least=0)
    kind: str = option("a", "A kind.", choices=("a", "b"))
    seeds: tuple[int, ...] = option((0, 1), "Seeds.", least=0)
    kinds: tuple[str, ...] = option((), "Kinds.", choices=("a", "b"))
    dry: bool = option(False, "Dry.")


def read(*arguments):
    values = define(Some)
    cli.take(["binary", *arguments], values)
    return Some(**given(Some, values))


def test_flags_give_what_python_gives():
    assert read() == Some()
    assert read("--size=0", "--rate=0.5", "--kind=b", "--seeds=2,0", "--kinds=b", "--dry") == Some(
        size=0, rate=0.5, kind="b", seeds=(2, 0), kinds=("b",), dry=True
    )
    text = define(Some).get_help()
    assert "[3]" in text and "[0,1]" in text and "A rate.\n" in text


AT_FAULT = {
    "1,1": "1 comes twice",
    "1,-1": "-1 does not fit",
    "1,x": "x does not fit",
    "a,c": "c does not fit",
}


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ("--size=-1 --size=1.5", "an integer of at least 0"),
        ("--rate=nan --rate=inf --rate=-1.0", "a finite number of at least 0"),
        ("--kind=c", "one of a, b"),
        ("--seeds=1,1 --seeds= --seeds=1,-1 --seeds=1,x", "different integers of at least 0"),
        ("--kinds=a,c", "some of a, b, each once"),
    ],
)
def test_what_an_option_cannot_be_is_one_sentence(flags, rule):
    for flag in flags.split():
        name, _, value = flag.partition("=")
        with pytest.raises(ValueError) as error:
            read(flag)
        found = re.fullmatch(
            f"{name} must (be|list) {rule}, but it is '{value}'(, where (.*))?.", str(error.value)
        )
        assert found and found[3] == AT_FAULT.get(value)


def test_a_range_holds_from_python_too():
    with pytest.raises(ValueError, match=r"--seeds must list different"):
        Some(seeds=(1, 1))

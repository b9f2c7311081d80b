"""Options are what their fields allow, from Python and from flags alike."""

import dataclasses

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


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--size=-1", "--size must be an integer of at least 0, but it is '-1'."),
        ("--size=1.5", "--size must be an integer of at least 0, but it is '1.5'."),
        *(
            (f"--rate={text}", f"--rate must be a finite number of at least 0, but it is '{text}'.")
            for text in ("nan", "inf")
        ),
        ("--rate=-1", "--rate must be a finite number of at least 0, but it is '-1.0'."),
        ("--kind=c", "--kind must be one of a, b, but it is 'c'."),
        (
            "--seeds=1,1",
            "--seeds must list different integers of at least 0, but it is '1,1', where 1 comes twice.",
        ),
        ("--seeds=", "--seeds must list different integers of at least 0, but it is ''."),
        (
            "--seeds=1,-1",
            "--seeds must list different integers of at least 0, but it is '1,-1', where -1 does not fit.",
        ),
        (
            "--seeds=1,x",
            "--seeds must list different integers of at least 0, but it is '1,x', where x does not fit.",
        ),
        (
            "--kinds=a,c",
            "--kinds must list some of a, b, each once, but it is 'a,c', where c does not fit.",
        ),
    ],
)
def test_what_an_option_cannot_be_is_one_sentence(flag, sentence):
    with pytest.raises(ValueError) as error:
        read(flag)
    assert str(error.value) == sentence


def test_a_range_holds_from_python_too():
    with pytest.raises(ValueError, match=r"--seeds must list different"):
        Some(seeds=(1, 1))

"""Checks say in one sentence what is wrong, and let pass what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import checks

NAN, INF = float("nan"), float("inf")
# What people and programs put in the place of a number.
STRANGE = [None, "x", b"x", 1j, [1, 2], {}, NAN, INF, 10**400, True, np.True_, print, np.ones((200, 300)), np.array(["a"])]
STRANGE += [np.datetime64("2026-01-01"), jnp.ones(3)]


def said(check, *arguments, **options):
    """The one sentence of a refusal."""
    with pytest.raises((ValueError, TypeError)) as refused:
        check(*arguments, **options)
    text = str(refused.value)
    assert "\n" not in text and len(text) < 250 and text.endswith("."), text
    return text


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: type(value).__name__)
def test_nothing_strange_passes_for_a_number(value):
    assert said(checks.check_size, "width", value).startswith("width must be ")
    assert said(checks.check_integer, "width", value, least=0).startswith("width must be an integer of at least 0 and below ")
    assert said(checks.check_number, "width", value).startswith("width must be a finite number, but it is ")
    assert said(checks.check_seed, value).startswith("seed must be an integer from 0 to 2**32 - 1, but it is ")
    assert said(checks.check_choice, "split", value, ("id", "ood")).startswith("split must be one of id, ood, but it is ")
    assert said(checks.check_numbers, "rates", value, 3).startswith("rates must be a tuple of 3 numbers, but it is ")


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.array, jnp.asarray])
def test_numbers_of_every_library_pass(kind):
    checks.check_size("width", kind(2))
    checks.check_seed(kind(2))
    checks.check_integer("count", kind(2), least=2, most=2)
    checks.check_number("count", kind(2), above=1, most=2)
    half = np.float16(0.5) if kind is int else kind(0.5) if kind in (np.array, jnp.asarray) else np.float32(0.5)
    checks.check_number("share", half, above=0, below=1)
    said(checks.check_size, "width", half)


@pytest.mark.parametrize(
    ("check", "inside", "outside"),
    [
        (lambda value: checks.check_number("share", value, above=0), 1e-300, 0),
        (lambda value: checks.check_number("share", value, least=0), 0, -1e-300),
        (lambda value: checks.check_number("share", value, below=1), 0.999, 1),
        (lambda value: checks.check_number("share", value, most=1), 1, 1.001),
        (lambda value: checks.check_integer("count", value, least=2, most=3), 3, 4),
        (lambda value: checks.check_size("width", value), 1, 0),
        (lambda value: checks.check_size("width", value), 2**31 - 1, 2**31),
        (checks.check_seed, 2**32 - 1, 2**32),
        (checks.check_seed, 0, -1),
    ],
)
def test_bounds_hold_to_the_last_value(check, inside, outside):
    check(inside)
    assert repr(outside) in said(check, outside)


def test_a_number_that_is_traced_passes():
    def traced(value):
        checks.check_number("share", value, above=5)
        checks.check_integer("count", value, least=5)
        return value

    assert jax.jit(traced)(1) == 1


@pytest.mark.parametrize(
    ("check", "right", "wrong", "sentence"),
    [
        (
            lambda v: checks.check_numbers("rates", v, None, above=0),
            (0.5, 1),
            (0.5, 0.0),
            "rates[1] must be a finite number above",
        ),
        (
            lambda v: checks.check_numbers("rates", v, None),
            (1,),
            (),
            "rates must be a tuple of at least one number, but it is ().",
        ),
        (
            lambda v: checks.check_type("key", v, (str, bytes), "give a name"),
            "a",
            3,
            "key must be of class str or bytes, but it ",
        ),
        (
            lambda v: checks.check_callable("encode", v, "(y) -> z"),
            print,
            3,
            "encode must be a function (y) -> z, but it is 3.",
        ),
        (
            lambda v: checks.check_sequence("at", v, int, "give steps"),
            [1, 2],
            [1, "2"],
            "at[1] must be of class int, but it is",
        ),
        (lambda v: checks.check_sequence("at", v, str, "give names"), ["a"], "abc", "at must be a list, but it is 'abc'; give"),
        (lambda v: checks.check_sequence("at", v, int, "give steps"), [1], [], "at must have at least one entry, but it is "),
        (lambda v: checks.check_path("path", v), "a", b"a", "path must be a path, but it is b'a'; give a string or a"),
        (lambda v: checks.check_path("path", v), "a", "a\0b", "path must be the name of a file or a folder, but it is "),
        (lambda v: checks.check_flag("nonneg", v), np.True_, 1, "nonneg must be True or False, but it is 1."),
        (
            checks.check_shard,
            (np.int64(1), 3),
            (2, 2),
            "shard must be (index, count) with 0 <= index < count, but it is (2, 2)",
        ),
        (checks.check_shard, [0, 1], (True, 2), "shard must be (index, count)"),
        (lambda v: checks.check_vanishing("it", np.array(v), np.float32), [0, 1], [1, 1e-42], "it has an atom whose largest "),
        (lambda v: checks.check_vanishing("it", np.array([v[0]]), v[1]), [1e-42, float], [1e-42, np.float32], "it has an atom"),
        (
            lambda v: checks.as_real("codes", v, "a vector"),
            np.ma.masked_array([0.0, 1], [0, 0]),
            np.ma.masked_array([0.0, 1, 2], [0, 1, 1]),
            "codes has masked entries (2); leave those rows out, or fill them by",
        ),
    ],
)
def test_what_is_right_passes_and_what_is_wrong_is_named(check, right, wrong, sentence):
    check(right)
    assert said(check, wrong).startswith(sentence)


@pytest.mark.parametrize(
    "values",
    [
        np.ones(3) * 1j,
        np.array(["a"]),
        np.array([1.5], object),
        [[1.0], [1.0, 2.0]],
        None,
        {},
        print,
        np.zeros(2, "M8[s]"),
        "abc",
    ],
    ids=str,
)
def test_only_real_numbers_are_real(values):
    assert said(checks.as_real, "codes", values, "a matrix").startswith("codes must be a matrix, but ")


@pytest.mark.parametrize("values", [[[1, 2]], np.ones(2, bool), np.ones(2, np.float16), jnp.ones(2, jnp.bfloat16), 3])
def test_real_numbers_keep_their_type(values):
    found = checks.as_real("codes", values, "a matrix")
    assert found.dtype == np.asarray(values).dtype and np.array_equal(found, np.asarray(values))


def test_a_value_is_shown_on_one_short_line():
    assert checks.shown(np.ones((2, 3))) == "an array of float64 of shape (2, 3)"
    assert checks.shown("a\nb") == "'a\\nb'" and len(checks.shown("a" * 999)) == 60

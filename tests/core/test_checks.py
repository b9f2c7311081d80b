"""Checks say in one sentence what is wrong, and let pass what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import checks

NAN, INF = float("nan"), float("inf")
# What people and programs put in the place of a number.
STRANGE = [
    None,
    "x",
    b"x",
    1j,
    [1, 2],
    {},
    NAN,
    INF,
    10**400,
    True,
    np.True_,
    print,
    np.ones((200, 300)),
    np.array(["a"]),
]
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
    assert said(checks.check_integer, "width", value, least=0).startswith(
        "width must be an integer of at least 0 and below "
    )
    assert said(checks.check_number, "width", value).startswith(
        "width must be a finite number, but it is "
    )
    assert said(checks.check_seed, value).startswith("seed must be an integer of at least 0 and ")
    assert said(checks.check_choice, "split", value, ("id", "ood")).startswith(
        "split must be one of id, ood, but it is "
    )


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.array, jnp.asarray])
def test_numbers_of_every_library_pass(kind):
    checks.check_size("width", kind(2))
    checks.check_seed(kind(2))
    checks.check_integer("count", kind(2), least=2, most=2)
    checks.check_number("count", kind(2), above=1, most=2)
    half = (
        np.float16(0.5)
        if kind is int
        else kind(0.5)
        if kind in (np.array, jnp.asarray)
        else np.float32(0.5)
    )
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


MASKED = np.ma.masked_array([0.0, 1, 2], [0, 1, 1])
# A check, what passes, and what does not with the start of the sentence on it.
KINDS = [
    (
        checks.check_type,
        ((str, bytes), "give a name"),
        "a",
        3,
        "of class str or bytes, but it is 3",
    ),
    (checks.check_callable, ("(y) -> z",), print, 3, "a function (y) -> z, but it is 3."),
    (checks.check_sequence, (int, "give steps"), [1, 2], [1, "2"], "of class int, but it is '2'"),
    (
        checks.check_sequence,
        (str, "give names"),
        ["a"],
        "abc",
        "a list, but it is 'abc'; give names",
    ),
    (checks.check_path, (), "a", b"a", "a path, but it is b'a'; give a string or a"),
    (checks.check_path, (), "a", "a\0b", "the name of a file or a folder, but it is "),
    (checks.check_flag, (), np.True_, 1, "True or False, but it is 1."),
    (checks.as_real, ("a vector",), [1, 2], {}, "a vector, but it is {}"),
    (checks.as_real, ("a vector",), [1, 2], [[1.0], [1.0, 2.0]], "a vector, but it is [[1.0]"),
    (
        checks.as_real,
        ("a vector",),
        [1, 2],
        np.ones(3) * 1j,
        "a vector, but it is of type complex128",
    ),
    (checks.as_real, ("a vector",), [1, 2], np.array(["a"]), "a vector, but it is of type <U1"),
    (
        checks.as_real,
        ("a vector",),
        [1, 2],
        np.zeros(2, "M8[s]"),
        "a vector, but it is of type datetime64",
    ),
]


@pytest.mark.parametrize(("check", "options", "right", "wrong", "sentence"), KINDS)
def test_what_is_right_passes_and_what_is_wrong_is_named(check, options, right, wrong, sentence):
    check("it", right, *options)
    text = said(check, "it", wrong, *options)
    assert text.startswith("it") and f" must be {sentence}" in text


def test_an_empty_list_a_shard_a_vanishing_atom_and_a_mask_are_named():
    assert "at least one entry" in said(checks.check_sequence, "at", [], int, "give steps")
    assert checks.check_shard((np.int64(1), 3)) == (1, 3) and checks.check_shard([0, 1]) == (0, 1)
    for wrong in ((2, 2), (True, 2)):
        assert said(checks.check_shard, wrong).startswith("shard must be (index, count)")
    checks.check_vanishing("it", np.array([0, 1]), np.float32)
    checks.check_vanishing("it", np.array([1e-42]), float)
    assert "largest entry is 1.0e-42" in said(
        checks.check_vanishing, "it", np.array([1, 1e-42]), np.float32
    )
    assert "masked entries (2)" in said(checks.as_real, "codes", MASKED, "a vector")


@pytest.mark.parametrize("values", [[[1, 2]], np.ones(2, np.float16), jnp.ones(2, jnp.bfloat16), 3])
def test_real_numbers_keep_their_type(values):
    real = checks.as_real("codes", values, "a matrix")
    assert real.dtype == np.asarray(values).dtype and np.array_equal(real, np.asarray(values))


def test_a_value_is_shown_on_one_short_line():
    assert checks.shown(np.ones((2, 3))) == "an array of float64 of shape (2, 3)"
    assert checks.shown("a\nb") == "'a\\nb'" and len(checks.shown("a" * 999)) == 60

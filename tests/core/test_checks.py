"""Checks say in one sentence what is wrong, and let pass what is right."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from pytest import mark, raises

from sae_gap.core import checks

# What people and programs put in the place of a number.
STRANGE = [
    None,
    "x",
    1j,
    math.nan,
    math.inf,
    10**400,
    True,
    np.True_,
    np.array(["a"]),
    jnp.ones(3),
]


def said(check, *arguments, **options):
    """The one sentence of a refusal."""
    with raises((ValueError, TypeError)) as refused:
        check(*arguments, **options)
    text = str(refused.value)
    assert "\n" not in text and len(text) < 400 and text.endswith("."), text
    return text


@mark.parametrize("value", STRANGE, ids=lambda value: type(value).__name__)
def test_nothing_strange_passes_for_a_number(value):
    for check in (checks.check_integer, checks.check_number):
        assert said(check, "width", value).startswith("width must be a")
    assert said(checks.check_seed, value).startswith(
        "seed must be an integer of at least 0 and "
    )
    assert "must be one of id, ood, but" in said(
        checks.check_choice, "it", value, ("id", "ood")
    )


@mark.parametrize("kind", [int, np.int64, np.uint8, np.array, jnp.asarray])
def test_numbers_of_every_library_pass(kind):
    checks.check_seed(kind(2))
    checks.check_integer("count", kind(2), least=2, most=2)
    checks.check_number("count", kind(2), above=1, most=2)
    half = kind(0.5) if kind in (np.array, jnp.asarray) else np.float16(0.5)
    checks.check_number("share", half, above=0, below=1)
    said(checks.check_size, "width", half)
    # What JAX traces has no value yet.
    jax.jit(lambda value: checks.check_integer("count", value, least=5) or value)(
        kind(2)
    )


@mark.parametrize(
    ("check", "limits", "inside", "outside"),
    [
        ("number", {"above": 0}, 1e-300, 0),
        ("number", {"least": 0}, 0, -1e-300),
        ("number", {"below": 1}, 0.999, 1),
        ("number", {"most": 1}, 1, 1.001),
        ("integer", {"least": 2, "most": 3}, 3, 4),
        ("integer", checks.SEED, 2**32 - 1, 2**32),
        ("integer", {}, 1, 0),
        ("integer", {}, 2**31 - 1, 2**31),
    ],
)
def test_bounds_hold_to_the_last_value(check, limits, inside, outside):
    check = getattr(checks, f"check_{check}")
    check("it", inside, **limits)
    assert repr(outside) in said(check, "it", outside, **limits)


# A check with its options, what passes, and what does not with words of the sentence on it; those
# of flags and of arrays are tested at the doors.
VECTOR = (checks.as_real, "a vector")
STEPS = (checks.check_sequence, int, "give steps")
KINDS = [
    (
        (checks.check_type, (str, bytes), "give it"),
        "a",
        3,
        "of class str or bytes, but it is 3",
    ),
    (STEPS, [1, 2], [1, "2"], "it[1] must be of class int, but it is '2'; give steps"),
    (STEPS, [1], [], "at least one entry"),
    (STEPS, [1], "abc", "a list, but it is 'abc'; give steps"),
    ((checks.check_path,), "a", b"a", "a path, but it is b'a'; give a string or a"),
    ((checks.check_path,), "a", "a\0b", "the name of a file or a folder, but it is "),
    (VECTOR, [1, 2], np.zeros(2, "M8[s]"), "a vector, but it is of type datetime64"),
    (VECTOR, [1, 2], [np.ma.masked_array([1.0], [1])], "masked entries"),
]


@mark.parametrize(("check", "right", "wrong", "words"), KINDS)
def test_what_is_right_passes_and_what_is_wrong_is_named(check, right, wrong, words):
    check, *options = check
    check("it", right, *options)
    text = said(check, "it", wrong, *options)
    assert text.startswith("it") and words in text


@mark.parametrize(
    "values", [[[1, 2]], np.ones(2, np.float16), jnp.ones(2, jnp.bfloat16), 3]
)
def test_real_numbers_keep_their_type(values):
    real = checks.as_real("codes", values, "a matrix")
    assert real.dtype == np.asarray(values).dtype and np.array_equal(
        real, np.asarray(values)
    )


def test_a_value_is_shown_on_one_short_line():
    assert checks.shown(np.ones((2, 3))) == "an array of float64 of shape (2, 3)"
    assert checks.shown("a\nb") == "'a\\nb'" and len(checks.shown("a" * 999)) == 60

"""Checks say in one sentence what is wrong, whatever they are given, and let pass what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import checks

# What people and programs put in the place of a number.
STRANGE = [
    *(None, "x", b"x", 1j, [1, 2], {}, float("nan"), float("inf"), 10**400, 10**4_400, True, np.True_, object(), print),
    *(np.ones((200, 300)), np.array(["a"]), np.datetime64("2026-01-01"), jnp.ones(3)),
]


def said(check, *arguments, **options):
    """The one sentence of a refusal."""
    with pytest.raises((ValueError, TypeError)) as refused:
        check(*arguments, **options)
    text = str(refused.value)
    assert "\n" not in text and len(text) < 250 and text.endswith(".") and refused.value.__cause__ is None, text
    return text


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: type(value).__name__)
def test_nothing_strange_passes_for_a_number(value):
    for check in (checks.check_size, checks.check_integer, checks.check_number):
        options = {"least": 0} if check is checks.check_integer else {}
        assert said(check, "width", value, **options).startswith("width must be ")
    assert said(checks.check_seed, value).startswith("seed must be an integer from 0 to 2**32 - 1, but it is ")
    assert said(checks.check_choice, "split", value, ("id", "ood")).startswith("split must be one of id, ood, but it is ")
    assert said(checks.check_numbers, "rates", value, 3).startswith("rates must be a tuple of 3 numbers, but it is ")
    if not isinstance(value, list):
        assert said(checks.check_shard, value).startswith("shard must be (index, count) with 0 <= index < count, but it is ")


@pytest.mark.parametrize("number", [2, np.int64(2), np.uint8(2), np.array(2), jnp.asarray(2)])
def test_integers_of_every_library_pass(number):
    checks.check_size("width", number)
    checks.check_seed(number)
    checks.check_integer("count", number, least=2, most=2)
    checks.check_number("count", number, above=1, most=2)


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.float16(0.5), jnp.asarray(0.5)])
def test_numbers_of_every_library_pass(number):
    checks.check_number("share", number, above=0, below=1)
    assert said(checks.check_size, "width", number).startswith("width must be a positive integer, but it is ")


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"above": 0}, 1e-300, 0),
        ({"least": 0}, 0, -1e-300),
        ({"below": 1}, 0.999, 1),
        ({"most": 1}, 1, 1.001),
        ({"least": 2, "most": 3}, 2, 4),
    ],
)
def test_bounds_hold_to_the_last_value(bounds, inside, outside):
    checks.check_number("share", inside, **bounds)
    text = said(checks.check_number, "share", outside, **bounds)
    assert all(f"{bound:g}" in text for bound in bounds.values()) and repr(outside) in text


def test_sizes_and_seeds_end_where_arrays_and_generators_do():
    checks.check_size("width", 2**31 - 1)
    checks.check_seed(2**32 - 1)
    assert said(checks.check_size, "width", 2**31) == "width must be below 2**31, but it is 2147483648; no array is that long."
    said(checks.check_size, "width", 0)
    said(checks.check_seed, 2**32)
    said(checks.check_seed, -1)


def test_a_number_that_is_traced_passes():
    def traced(value):
        checks.check_number("share", value, above=5)
        checks.check_integer("count", value, least=5)
        return value

    assert jax.jit(traced)(1) == 1


def test_a_tuple_is_checked_number_by_number():
    checks.check_numbers("rates", (0.5, 1, np.float32(2)), 3, above=0)
    checks.check_numbers("rates", (0.5,), None)
    assert said(checks.check_numbers, "rates", (0.5, 0.0), 2, above=0).startswith("rates[1] must be a finite number above 0, ")
    assert said(checks.check_numbers, "rates", (), None) == "rates must be a tuple of at least one number, but it is ()."


@pytest.mark.parametrize(
    "values",
    [np.ones(3) * 1j, np.array(["a"]), np.array([{}], object), np.array([1.5], object), [[1.0], [1.0, 2.0]], None, {}, print,
     np.zeros(2, "M8[s]"), "abc"],
    ids=str,
)  # fmt: skip
def test_only_real_numbers_are_real(values):
    assert said(checks.as_real, "codes", values, "a matrix").startswith("codes must be a matrix, but ")


def test_masked_numbers_are_refused_where_a_mask_covers_any():
    values = np.ma.masked_array(np.arange(3.0), mask=[False, True, True])
    assert said(checks.as_real, "codes", values, "a vector").startswith("codes has masked entries (2), and")
    np.testing.assert_array_equal(checks.as_real("codes", values[:1], "a vector"), [0.0])


@pytest.mark.parametrize("values", [[[1, 2]], np.ones(2, bool), np.ones(2, np.float16), jnp.ones(2, jnp.bfloat16), 3])
def test_real_numbers_keep_their_type(values):
    found = checks.as_real("codes", values, "a matrix")
    assert found.dtype == np.asarray(values).dtype and np.array_equal(found, np.asarray(values))


def test_classes_functions_sequences_and_paths(tmp_path):
    checks.check_type("key", None, (str, type(None)), "give a name")
    checks.check_callable("encode", print, "(model, signals) -> codes")
    checks.check_sequence("at", [1, 2], int, "give steps")
    for path in ("a", tmp_path):
        checks.check_path("path", path)
    assert said(checks.check_type, "key", 3, (str, bytes), "give a name") == (
        "key must be of class str or bytes, but it is 3; give a name."
    )
    assert said(checks.check_callable, "encode", 3, "(y) -> z") == "encode must be a function (y) -> z, but it is 3."
    for given in (3, "abc", {}, [], [1, "2"]):
        said(checks.check_sequence, "at", given, int, "give steps")
    # Each letter of a text is a text.
    said(checks.check_sequence, "names", "abc", str, "give names")
    for given in (3, None, b"a", "", "a\0b"):
        said(checks.check_path, "path", given)
    said(checks.check_name, "name", "")
    said(checks.check_flag, "nonneg", 1)
    checks.check_flag("nonneg", np.True_)


def test_shards():
    assert checks.check_shard((np.int64(1), 3)) == (1, 3) and checks.check_shard([0, 1]) == (0, 1)
    for pair in ((0, 0), (2, 2), (-1, 2), (0, 1, 2), (0.0, 1), (True, 2), ("0", "1")):
        said(checks.check_shard, pair)


def test_atoms_too_small_to_be_told_from_zero():
    checks.check_vanishing("dictionary", np.array([0, 1, np.finfo(np.float32).tiny]), np.float32)
    checks.check_vanishing("dictionary", np.array([1e-42]), np.float64)
    assert said(checks.check_vanishing, "dictionary", np.array([1.0, 1e-42]), np.float32).startswith("dictionary has an atom ")


def test_what_cannot_be_shown_is_described():
    class Mute:
        def __repr__(self):
            raise RuntimeError("no words")

    assert checks.shown(Mute()) == "a Mute"
    assert checks.shown(10**4_400) == "an integer of 14617 bits"
    assert (checks.shown(10**30), checks.shown(1 - 10**30)) == ("an integer of 100 bits", "-" + "9" * 30)
    assert checks.shown(np.ones((2, 3))) == "an array of float64 of shape (2, 3)"
    assert checks.shown("a\nb") == "'a\\nb'" and len(checks.shown("a" * 999)) == 60

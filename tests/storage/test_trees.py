"""A tree comes back bit by bit; a file that is damaged, foreign or hostile is refused before
anything is made of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sae_gap.core import Model
from sae_gap.storage import Checkpoint, trees

TREE = {
    "model": Model(jnp.arange(6.0).reshape(2, 3), jnp.ones(2)),
    "key": jax.random.key(3),
    "flag": jnp.asarray(True),
    "n": jnp.int32(7),
}
CONTENT = trees.dump(TREE, {"step": 3, "nested": {"a": [1, None]}})


def check_same(tree, other):
    words = [part | {"key": jax.random.key_data(part["key"])} for part in (tree, other)]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), *words)


def test_a_tree_comes_back_with_its_note():
    note = trees.read_note(CONTENT)
    assert note == {"step": 3, "nested": {"a": [1, None]}, "crc32": note["crc32"]}
    for like in (TREE, jax.eval_shape(lambda: TREE)):
        check_same(trees.load(CONTENT, like), TREE)
    # Others read it by the names of its places.
    found = safetensors.numpy.load(CONTENT)
    np.testing.assert_array_equal(found["['model'].dictionary"], TREE["model"].dictionary)
    assert trees.load(trees.dump({}, {}), {}) == {}


LIKE = {
    "shape": TREE | {"model": Model(jnp.zeros((2, 4)), jnp.ones(2))},
    "type": TREE | {"n": jnp.float32(7)},
    "fewer": {name: leaf for name, leaf in TREE.items() if name != "flag"},
}


@pytest.mark.parametrize("name", LIKE)
def test_what_is_unlike_is_refused(name):
    with pytest.raises(ValueError, match=r" is .*, where .* is expected$"):
        trees.load(CONTENT, LIKE[name])


OTHERS = {"note": "{}", "crc32": "1"}
DAMAGE = {
    "flipped": CONTENT[:-3] + bytes([CONTENT[-3] ^ 1]) + CONTENT[-2:],
    "cut": CONTENT[:-1],
    "a header of the moon": (2**60).to_bytes(8, "little") + CONTENT[8:],
    "another checksum": safetensors.numpy.save(safetensors.numpy.load(CONTENT), OTHERS),
    "no note": safetensors.numpy.save({"a": np.ones(2)}),
    "a list for a note": safetensors.numpy.save({"a": np.ones(2)}, OTHERS | {"note": "[1]"}),
    "a deep note": safetensors.numpy.save({"a": np.ones(2)}, OTHERS | {"note": "[" * 100_000}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_or_foreign_is_refused(name):
    with pytest.raises(ValueError):
        trees.load(DAMAGE[name], TREE)
    if name.endswith(" note"):
        with pytest.raises(ValueError, match="no note"):
            trees.read_note(DAMAGE[name])


def test_a_checkpoint_is_saved_loaded_and_removed(tmp_path, caplog):
    save = Checkpoint(tmp_path, every=0, fit="mine")
    assert save.load(TREE) is None
    save.store(TREE, 2.5, step=3)
    state, seconds = save.load(TREE)
    check_same(state, TREE)
    assert save.named("other").load(TREE) is None and seconds == 2.5
    for _ in range(2):
        save.discard()
    assert [*tmp_path.iterdir()] == []
    # A full disk is warned of.
    (tmp_path / "file").write_text("")
    Checkpoint(tmp_path / "file").store(TREE, 1.0)
    assert "going on without saving the fit" in caplog.text

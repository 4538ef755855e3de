"""The verbs of `_tree` on every kind of leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta._core.tree import (
    cast_like,
    is_float,
    path_strings,
    split_by_path,
    strongly_typed,
)
from tests.helpers import assert_trees_close

LEAVES = {
    "python float": (2.5, "float64"),
    "python int": (2, "int64"),
    "python bool": (True, "bool"),
    "numpy float32": (np.float32(2.5), "float32"),
    "weak float32": (jnp.asarray(1.0) * 2, "float64"),
    "bfloat16": (jnp.ones(2, jnp.bfloat16), "bfloat16"),
    "key": (jax.random.key(0), "key<fry>"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_strong_keeps_dtype_and_value(name):
    leaf, dtype = LEAVES[name]
    made = strongly_typed({"a": [leaf]})["a"][0]
    assert str(made.dtype) == dtype
    assert not getattr(made, "weak_type", False)
    assert_trees_close(made, jnp.asarray(leaf), rtol=0)


@pytest.mark.parametrize("name", LEAVES)
def test_is_float(name):
    assert is_float(LEAVES[name][0]) == ("float" in LEAVES[name][1])


def test_cast_like():
    tree = {"a": jnp.ones(2), "n": None, "k": jax.random.key(1), "w": 1.0}
    like = {"a": jnp.ones(2, jnp.bfloat16), "n": None, "k": jax.random.key(0)}
    cast = cast_like(tree, like | {"w": jnp.ones((), jnp.float32)})
    assert cast["a"].dtype == jnp.bfloat16
    assert cast["w"].dtype == jnp.float32
    assert not cast["w"].weak_type
    assert_trees_close(cast["k"], tree["k"], rtol=0)


def test_split_by_path():
    tree = {"body": [1.0, {"w": 2.0}], "head": (3.0, None)}
    seen = []

    def keep(path):
        seen.append(path)
        return path[0] == "head" or path[-1] == "w"

    kept, merge = split_by_path(tree, keep)
    assert seen == [("body", "0"), ("body", "1", "w"), ("head", "0")]
    assert kept == {"body": [None, {"w": 2.0}], "head": (3.0, None)}
    new = jax.tree.map(lambda x: 10 * x, kept)
    assert merge(new) == {"body": [1.0, {"w": 20.0}], "head": (30.0, None)}


def test_path_strings_of_attributes():
    state = jax.tree.leaves_with_path({"x": {0: [5.0]}})
    assert [path_strings(path) for path, _ in state] == [("x", "0", "0")]

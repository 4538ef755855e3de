"""Apply functions and checks of trees, shared by all kinds of models."""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from jmeta._core import validate
from jmeta._core.typing import Key, PyTree

NEW_VARIABLES = (
    "A call must keep the variables that the module had when it was given: make them "
    "before `make_functional`, and sow into intermediates only."
)


def apply_functions(
    call: Callable[..., Any],
    params: PyTree,
    state: PyTree,
    *,
    with_state: bool,
    takes_key: bool = True,
) -> tuple[Any, ...]:
    """Make what `make_functional` returns from one general function.

    Args:
        call: `call(params, state, args, kwargs, key) -> (outputs, new_state)`.
        params: The parameters.
        state: The state, a tree without leaves if the model has none.
        with_state: Whether the apply function takes and returns the state. If not, it
            uses the state as it is now.
        takes_key: Whether the apply function has a parameter `key`.

    Returns:
        `(apply_fn, params)`, or `(apply_fn, params, state)`.
    """

    def apply_with_state(params, state, /, *args, key=None, **kwargs):
        return call(params, state, args, kwargs, _checked_key(key))

    def apply_with_state_without_key(params, state, /, *args, **kwargs):
        _refuse_key(kwargs)
        return call(params, state, args, kwargs, None)

    def apply_fn(params, /, *args, key=None, **kwargs):
        return call(params, state, args, kwargs, _checked_key(key))[0]

    def apply_without_key(params, /, *args, **kwargs):
        _refuse_key(kwargs)
        return call(params, state, args, kwargs, None)[0]

    if with_state and jax.tree.leaves(state):
        chosen = apply_with_state if takes_key else apply_with_state_without_key
        return chosen, params, state
    return (apply_fn if takes_key else apply_without_key), params


def check_method(model: Any, method: Any) -> None:
    """Refuse the name of a method that the model does not have."""
    if isinstance(method, str) and not callable(getattr(model, method, None)):
        raise ValueError(
            f"`method` must be a method of {type(model).__name__}; got {method!r}. Of a"
            f" submodule pass `lambda module, x: module.{method}(x)`."
        )


def _checked_key(key: Any) -> Key | None:
    if key is not None:
        validate.key("key", key)
    return key


def _refuse_key(kwargs: dict[str, Any]) -> None:
    if "key" in kwargs:
        raise TypeError(
            "`key` must be left out, since what the model is called by has no parameter"
            f" `key`; got {validate.kind(kwargs['key'])}. Give it one, or pass"
            " `method=lambda module, x, key: ...`."
        )


def leaf_names(tree: PyTree) -> list[str]:
    """The path of each leaf."""
    return [keystr(path) for path, _ in tree_flatten_with_path(tree)[0]]


def check_same_leaves(tree: PyTree, names: list[str], problem: str) -> None:
    """Refuse a tree whose leaves do not have exactly these names, in this order.

    Args:
        tree: The tree.
        names: The names that its leaves must have, as `leaf_names` gives them.
        problem: What must hold, the beginning of the message.
    """
    got = leaf_names(tree)
    if got != names:
        missing, unknown = set(names) - set(got), set(got) - set(names)
        raise ValueError(
            f"{problem} Missing: {sorted(missing)}. Unknown: {sorted(unknown)}."
        )

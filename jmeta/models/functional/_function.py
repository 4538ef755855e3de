"""Check functions of parameters, which are apply functions already."""

from typing import Any

from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.libraries import library
from jmeta._core.typing import PyTree


def from_function(model: Any, variables: PyTree, method: Any) -> tuple[Any, ...]:
    """Check a function and its parameters, and return both."""
    if not callable(model):
        raise TypeError(
            "`model` must be a Flax nnx or linen module, an Equinox module, a Haiku "
            "transform or a function `f(params, ...)`; got"
            f" {validate.kind(model)}.{_hint(model, variables)}"
        )
    if variables is None:
        raise ValueError(
            "A function needs its parameters, `variables`: pass "
            f"`make_functional(fn, params)` with `fn(params, *args)`; got {model!r} "
            "alone."
        )
    for path, leaf in tree_leaves_with_path(variables):
        is_array = isinstance(leaf, bool | int | float | complex)
        if not is_array and not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
            raise TypeError(
                "`variables` must be the function's parameters, a tree of arrays; "
                f"leaf {keystr(path)!r} is {validate.kind(leaf)}. Pass a function "
                "`f(params, ...)` and its parameters."
            )
    if method is not None:
        raise ValueError(
            "`method` selects a module's method, and a function has none; got "
            f"{validate.kind(method)}. Leave it out."
        )
    return model, variables


def _hint(model: Any, variables: PyTree) -> str:
    if isinstance(model, tuple | list) and model and callable(model[0]):
        return " Pass its parts: `make_functional(*model)`."
    if library(variables) is not None or callable(variables):
        return " The model comes first: `make_functional(model, ...)`."
    return " Pass one of these."


def refuse_torch(model: Any) -> None:
    """Refuse a torch module, which is callable but not in JAX."""
    if library(model) == "torch":
        raise TypeError(
            "`model` must be a JAX model; got the torch module "
            f"{validate.kind(model)}. Make the same network in Flax and convert the "
            "weights with `jmeta.from_torch.parameters(model.state_dict(), params)`."
        )

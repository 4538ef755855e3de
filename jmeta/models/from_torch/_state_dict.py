"""Check what torch's `state_dict()` returned, and convert it to numpy."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jmeta._core import validate
from jmeta._core.libraries import library


def module_arrays(state_dict: Any) -> dict[str, np.ndarray]:
    """The arrays of a module's state_dict by name, in numpy."""
    _check_is_dict(state_dict, "module")
    if set(state_dict) == {"state", "param_groups"}:
        raise ValueError(
            "`state_dict` must be a module's; got an optimizer's, with `state` and"
            " `param_groups`. Pass `module.state_dict()`; an optimizer's goes to"
            " `from_torch.optimizer_state`."
        )
    return {name: _as_array(name, value) for name, value in state_dict.items()}


def checked_optimizer(state_dict: Any) -> Mapping[str, Any]:
    """An optimizer's state_dict, checked to have its two parts."""
    _check_is_dict(state_dict, "optimizer")
    if not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(
            "`state_dict` must be an optimizer's, with `state` and `param_groups`; got"
            f" {list(state_dict)[:4] or 'nothing'}. Pass `optimizer.state_dict()`; a"
            " module's goes to `from_torch.parameters`."
        )
    groups = state_dict["param_groups"]
    is_groups = isinstance(groups, list | tuple) and all(
        isinstance(group, Mapping) and "params" in group for group in groups
    )
    if not isinstance(state_dict["state"], Mapping) or not is_groups:
        kinds = [validate.kind(state_dict[key]) for key in ("state", "param_groups")]
        raise ValueError(
            "`state_dict` must be an optimizer's, with a dict as `state` and a list of"
            f" dicts with `params` as `param_groups`; got {' and '.join(kinds)}. Pass"
            " `optimizer.state_dict()`."
        )
    return state_dict


def _check_is_dict(state_dict: Any, owner: str) -> None:
    """Refuse what is no dict; `owner` is the kind of object it comes from."""
    if isinstance(state_dict, Mapping):
        return
    use = f"Pass `{owner}.state_dict()`, of tensors or of numpy arrays."
    if isinstance(state_dict, str | bytes):
        use = f"Load the file first, with `torch.load`. {use}"
    raise TypeError(
        f"`state_dict` must be the dict that torch's `state_dict()` returned; got"
        f" {validate.kind(state_dict)}. {use}"
    )


def _as_array(name: Any, value: Any) -> np.ndarray:
    """Convert one entry of a module's state_dict to numpy."""
    if not isinstance(name, str):
        raise TypeError(
            "`state_dict` must have torch's names as keys; got the key"
            f" {validate.kind(name)}. Pass `module.state_dict()`."
        )
    if isinstance(value, Mapping | list | tuple):
        raise TypeError(
            f"`state_dict` must hold arrays by torch's dotted names; entry {name!r} is"
            f" {validate.kind(value)}. Pass torch's weights, `module.state_dict()`."
        )
    try:
        converted = np.asarray(value)
    except (TypeError, RuntimeError, ValueError) as error:
        # torch refuses to convert tensors on a GPU, with a gradient, and in bfloat16.
        raise TypeError(
            f"`state_dict` must hold CPU tensors or arrays; entry {name!r} is"
            f" {validate.kind(value)} that numpy cannot read ({error}). Pass"
            " `value.detach().cpu()`, and of bfloat16 `.float()` of it."
        ) from error
    if converted.dtype == object:
        what = " of torch" if library(value) == "torch" else ""
        raise TypeError(
            f"`state_dict` must hold arrays; entry {name!r} is"
            f" {validate.kind(value)}{what}. Pass `module.state_dict()`."
        )
    return converted

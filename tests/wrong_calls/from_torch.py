"""Wrong calls of `from_torch`."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmeta import from_torch, optim
from tests.wrong_calls.table import WrongCall

LIKE = {"fc": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}
WEIGHTS: dict[str, Any] = {"fc.weight": np.ones((3, 2)), "fc.bias": np.ones(3)}
STATE = {
    "state": {},
    "param_groups": [dict(lr=0.1, momentum=0, params=[0, 1])],
}


class Module:
    """Stands for a torch module: torch is not installed here."""

    def state_dict(self):
        return WEIGHTS


class OnDevice:
    """A tensor that numpy cannot read."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def parameters(state_dict: Any = WEIGHTS, like: Any = LIKE, **kwargs: Any) -> Any:
    return from_torch.parameters(state_dict, like, **kwargs)


def optimizer_state(state_dict: Any = STATE, like: Any = None, **kwargs: Any) -> Any:
    names: dict[str, Any] = {"parameter_names": list(WEIGHTS)} | kwargs
    return from_torch.optimizer_state(
        state_dict, like or optim.sgd().init(LIKE), **names
    )


ROWS = [
    WrongCall(
        *("parameters-module", lambda: parameters(Module())),
        *(TypeError, "state_dict", "a Module", "Pass `module.state_dict()`"),
    ),
    WrongCall(
        *("parameters-list", lambda: parameters(list(WEIGHTS.values()))),
        *(TypeError, "state_dict", "a list", "Pass `module.state_dict()`"),
    ),
    WrongCall(
        *("parameters-file", lambda: parameters("weights.pt")),
        *(TypeError, "state_dict", "'weights.pt'", "torch.load"),
    ),
    WrongCall(
        *("parameters-none", lambda: parameters(None)),
        *(TypeError, "state_dict", "got None", "Pass `module.state_dict()`"),
    ),
    WrongCall(
        *("parameters-optimizer", lambda: parameters(STATE)),
        *(ValueError, "state_dict", "an optimizer's", "Pass `module.state_dict()`"),
    ),
    WrongCall(
        *("parameters-on-device", lambda: parameters({"fc.weight": OnDevice()})),
        *(TypeError, "state_dict", "an OnDevice", "value.detach().cpu()"),
    ),
    WrongCall(
        *("parameters-nested", lambda: parameters({"fc": WEIGHTS})),
        *(TypeError, "state_dict", "entry 'fc' is a dict", "`module.state_dict()`"),
    ),
    WrongCall(
        *("parameters-object", lambda: parameters({"fc.weight": Module()})),
        *(TypeError, "state_dict", "entry 'fc.weight' is a Module", "Pass `module"),
    ),
    WrongCall(
        *("parameters-integer-key", lambda: parameters({0: np.ones(3)})),
        *(TypeError, "state_dict", "the key 0", "`module.state_dict()`"),
    ),
    WrongCall(
        *("parameters-shape", lambda: parameters({**WEIGHTS, "fc.bias": np.ones(4)})),
        *(ValueError, "fc.bias", "torch's array has (4,)", "Check `names`"),
    ),
    WrongCall(
        *("parameters-missing", lambda: parameters({"fc.weight": np.ones((3, 2))})),
        *(ValueError, "names={torch name: Flax path}", "fc.bias (3,)", "Pass `names="),
    ),
    WrongCall(
        *(
            "parameters-like-module",
            lambda: parameters(like=nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
        ),
        *(TypeError, "like", "a Linear", "jmeta.make_functional(module)"),
    ),
    WrongCall(
        *("parameters-like-function", lambda: parameters(like=parameters)),
        *(TypeError, "like", "the function parameters", "make_functional(module)"),
    ),
    WrongCall(
        *("parameters-names-list", lambda: parameters(names=["fc"])),
        *(TypeError, "names", "a list", "a dict by torch's names"),
    ),
    WrongCall(
        *("parameters-names-unknown", lambda: parameters(names={"head": "fc"})),
        *(ValueError, "names", "'head'", "Use one of them"),
    ),
    WrongCall(
        *("parameters-flatten-list", lambda: parameters(flatten=[3, 2])),
        *(TypeError, "flatten", "a list", "a dict by torch's names"),
    ),
    WrongCall(
        *("state-module", lambda: from_torch.state(Module(), {})),  # pyright: ignore[reportArgumentType]
        *(TypeError, "state_dict", "a Module", "Pass `module.state_dict()`"),
    ),
    WrongCall(
        *("state-like-number", lambda: from_torch.state(WEIGHTS, 3.0)),
        *(TypeError, "like", "3.0", "make_functional(module)"),
    ),
    WrongCall(
        *("optimizer_state-optimizer", lambda: optimizer_state(Module())),
        *(TypeError, "state_dict", "a Module", "Pass `optimizer.state_dict()`"),
    ),
    WrongCall(
        *("optimizer_state-model", lambda: optimizer_state(WEIGHTS)),
        *(ValueError, "state_dict", "'fc.weight'", "Pass `optimizer.state_dict()`"),
    ),
    WrongCall(
        *("optimizer_state-list", lambda: optimizer_state([STATE])),
        *(TypeError, "state_dict", "a list", "Pass `optimizer.state_dict()`"),
    ),
]

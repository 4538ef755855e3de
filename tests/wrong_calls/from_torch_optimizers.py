"""Wrong calls of `from_torch.optimizer_state`."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jmeta import from_torch, optim
from tests.wrong_calls.table import WrongCall

MODEL = {"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2)}
PARAMS = {"fc": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
SETTINGS = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0}
GROUP = SETTINGS | {"params": [0, 1]}
STATE = {"state": {}, "param_groups": [GROUP]}


class Optimizer:
    """As torch's: an object with a method `state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        return STATE


def convert(state: Any = STATE, tx: Any = None, **options: Any) -> Any:
    like = (optim.sgd() if tx is None else tx).init(PARAMS)
    options = {"parameter_names": list(MODEL), **options}
    return from_torch.optimizer_state(state, like, **options)


# wrong on purpose
# pyright: reportArgumentType=false, reportCallIssue=false
ROWS = [
    WrongCall(f"optimizer_state-{argument}-{got}", call, error, argument, got, use)
    for call, error, argument, got, use in [
        (
            lambda: convert(Optimizer()),
            *(TypeError, "state_dict", "an Optimizer", "`optimizer.state_dict()`"),
        ),
        (
            lambda: convert([STATE]),
            *(TypeError, "state_dict", "a list", "`optimizer.state_dict()`"),
        ),
        (
            lambda: convert(None),
            *(TypeError, "state_dict", "None", "`optimizer.state_dict()`"),
        ),
        (
            lambda: convert(MODEL),
            *(ValueError, "state_dict", "'fc.weight'", "`optimizer.state_dict()`"),
        ),
        (
            lambda: convert({}),
            *(ValueError, "state_dict", "nothing", "`optimizer.state_dict()`"),
        ),
        (
            lambda: convert({"state": {}, "param_groups": GROUP}),
            *(ValueError, "state_dict", "a dict and a dict", "a list of dicts"),
        ),
        (
            lambda: convert({"state": [], "param_groups": [GROUP]}),
            *(ValueError, "state_dict", "a list and a list", "a dict as `state`"),
        ),
        (
            lambda: convert(names=[("fc", "fc")]),
            *(TypeError, "names", "a list", "as `parameters` got it"),
        ),
        (
            lambda: convert(flatten=(2, 3)),
            *(TypeError, "flatten", "a tuple", "as `parameters` got it"),
        ),
        (
            lambda: convert(parameter_names="fc.weight"),
            *(TypeError, "parameter_names", "'fc.weight'", "in torch's order"),
        ),
        (
            lambda: convert(parameter_names=None),
            *(
                ValueError,
                "parameter_names=[name for name, _ in model.named_parameters()]",
                "no names",
                "the optimizer's order",
            ),
        ),
        (
            lambda: convert(groups="all"),
            *(TypeError, "groups", "'all'", "in torch's order"),
        ),
        (
            lambda: convert(groups=["all"]),
            *(ValueError, "groups", "['all']", "the labels of the states"),
        ),
        (
            lambda: convert(tx=optax.adam(0.1)),
            *(ValueError, "like", "a tuple", "`jmeta.optim`"),
        ),
    ]
]

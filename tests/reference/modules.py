"""torch modules with their state_dict, and training runs continued from the middle."""

import copy
from typing import Any

import torch

from .networks import NETWORKS, loss_of, made

WARM, MORE = 4, 3
OPTIMIZERS: dict[str, tuple[str, dict]] = {
    "sgd": ("SGD", dict(lr=0.05, momentum=0.9, weight_decay=0.01)),
    "adam": ("Adam", dict(lr=0.01, eps=1e-4)),
    "adamw": ("AdamW", dict(lr=0.01, eps=1e-4, amsgrad=True)),
    "rmsprop": ("RMSprop", dict(lr=0.005, eps=1e-3, momentum=0.5, centered=True)),
}
FEWER = ("sgd", "adam")
"""The optimizers of every network; the linear one has all."""

NAMES = ("linear", "layer_norm", "conv1d", "conv2d", "embedding", "lstm", "gru")
"""The networks of this section; torch's own layers, so that names are torch's."""


def record() -> list[dict[str, Any]]:
    """Every network with every optimizer recorded on it."""
    return [
        row(name, optimizer)
        for name in NAMES
        for optimizer in (OPTIMIZERS if name == "linear" else FEWER)
    ]


def row(name: str, optimizer: str) -> dict[str, Any]:
    """One network and one optimizer."""
    model, arrays = made(name)
    data = {key: torch.as_tensor(value) for key, value in arrays.items()}
    kind, kwargs = OPTIMIZERS[optimizer]
    opt = getattr(torch.optim, kind)(model.parameters(), **kwargs)
    first = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        outputs = copy.deepcopy(model).train()(data["x"])
        evaluated = copy.deepcopy(model).eval()(data["x"])
    steps(model, opt, data, WARM)
    middle = {
        "state_dict": copy.deepcopy(model.state_dict()),
        "optimizer_state_dict": copy.deepcopy(opt.state_dict()),
    }
    with torch.no_grad():
        middle["outputs_eval"] = copy.deepcopy(model).eval()(data["x"])
    return {
        "name": f"{name}/{optimizer}",
        "network": name,
        "doc": " ".join((type(model).__doc__ or "").split("\n")[0].split())
        if name not in ("linear", "layer_norm")
        else NETWORKS[name][0].__doc__,
        "layers": str(model),
        "optimizer": kind,
        "kwargs": kwargs,
        **data,
        "state_dict": first,
        "outputs": outputs,
        "outputs_eval": evaluated,
        "warm_steps": WARM,
        "middle": middle,
        "next": steps(model, opt, data, MORE),
    }


def steps(
    model: torch.nn.Module, opt: torch.optim.Optimizer, data: dict, count: int
) -> list[dict[str, Any]]:
    """Loss before each training step, and the state_dict after it."""
    rows = []
    for _ in range(count):
        opt.zero_grad()
        loss = loss_of(model(data["x"]), data["y"])
        loss.backward()
        opt.step()
        rows.append(
            {"loss": loss.item(), "state_dict": copy.deepcopy(model.state_dict())}
        )
    return rows

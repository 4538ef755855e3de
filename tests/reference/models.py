"""Hypergradients through short training runs of networks that are not plain ones."""

from dataclasses import replace
from typing import Any

import torch
from torch.func import functional_call

from .hypergradients import hypergradient
from .networks import loss_of, made
from .problems import Params, Problem
from .runs import Run, real

STEPS = 3
NAMES = ("lstm_cell", "gru_cell", "conv2d_tanh", "attention")
OPTIMIZERS: dict[str, tuple[str, dict]] = {
    "sgd": ("SGD", dict(lr=0.1, momentum=0.5)),
    "adam": ("Adam", dict(lr=0.01, eps=1e-3)),
}


def record() -> list[dict[str, Any]]:
    """Every network with both optimizers."""
    return [row(name, optimizer) for name in NAMES for optimizer in OPTIMIZERS]


def row(name: str, optimizer: str) -> dict[str, Any]:
    """One network and one optimizer."""
    model, arrays = made(name)
    data = {key: torch.as_tensor(value) for key, value in arrays.items()}
    buffers = dict(model.named_buffers())
    problem = problem_of(name, model, data, buffers)
    kind, kwargs = OPTIMIZERS[optimizer]
    run = Run(problem=problem, optimizer=kind, groups=[kwargs], steps=STEPS)
    made_row = hypergradient(f"{name}/{optimizer}", run)
    made_row |= {
        "layers": str(model),
        "params": problem.params,
        **data,
        "outputs": functional_call(model, (problem.params, fresh(buffers)), data["x"]),
    }
    return made_row | (with_statistics(made_row, run, model, data) if buffers else {})


def problem_of(
    name: str, model: torch.nn.Module, data: dict, buffers: Params
) -> Problem:
    """Train mode inside and outside: running statistics are written, never read."""

    def loss(params: Params, key: str) -> torch.Tensor:
        outputs = functional_call(model, (params, fresh(buffers)), data[f"x{key}"])
        return loss_of(outputs, data[f"y{key}"])

    return Problem(
        name=name,
        params={n: p.detach().clone() for n, p in model.named_parameters()},
        inner=lambda params: loss(params, ""),
        outer=lambda params: loss(params, "_val"),
        data=data,
        doc="",
    )


def with_statistics(
    first: dict[str, Any], run: Run, model: torch.nn.Module, data: dict
) -> dict[str, Any]:
    """Buffers after each step, and the outer loss in eval mode with the last of them.

    The statistics are constants there, as in torch.
    """
    path = real(run, run.settings(), run.problem.params)["params"]
    buffers, kept = dict(model.named_buffers()), []
    for params in path[:-1]:
        buffers = fresh(buffers)
        functional_call(model.train(), (params, buffers), data["x"])
        kept.append(buffers)
    last = kept[-1]

    def outer(params: Params) -> torch.Tensor:
        model.eval()
        outputs = functional_call(model, (params, last), data["x_val"])
        model.train()
        return loss_of(outputs, data["y_val"])

    evaluated = replace(run, problem=replace(run.problem, outer=outer))
    # a bias before BatchNorm has no gradient, where Adam's update has no curvature
    kinds = {"0/weight_decay": "forward"}
    row = hypergradient(f"{first['name']}/eval", evaluated, kinds=kinds)
    return {
        "buffers": dict(model.named_buffers()),
        "buffers_after": kept,
        "eval": {key: row[key] for key in ("outer", "d_settings", "d_params")},
    }


def fresh(buffers: Params) -> Params:
    """Copies, since a forward pass in train mode writes into them."""
    return {name: value.clone() for name, value in buffers.items()}

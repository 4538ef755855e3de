"""The same derivatives by `higher`, stored beside ours as a second reference."""

from typing import Any

import higher
import numpy as np
import torch

from .problems import Problem
from .runs import Run

SUPPORTED = ("SGD", "Adam", "Adagrad", "Adadelta", "RMSprop", "Adamax", "ASGD", "Rprop")
"""The optimizers that higher 0.2.1 knows."""

AGREES = 1e-8


class Model(torch.nn.Module):
    """A problem as a module, whose call is one of its two objectives."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        for name, value in problem.params.items():
            parameter = torch.nn.Parameter(value.clone())
            self.register_parameter(name.replace(".", "_"), parameter)

    def forward(self, objective: str) -> torch.Tensor:
        params = {n: getattr(self, n.replace(".", "_")) for n in self.problem.params}
        return getattr(self.problem, objective)(params)


def compared(run: Run, row: dict[str, Any], *, copy: bool = False) -> dict[str, Any]:
    """What `higher` gives where it is supported, against a row of ours.

    Each entry is `"ok"` where it agrees, otherwise its own value (None where it gives
    no gradient).
    """
    if run.optimizer not in SUPPORTED or len(run.groups) > 1 or run.start:
        return {}
    model = Model(run.problem)
    settings = {
        name: _tensors(value)
        for name, value in row["settings"].items()
        if name != "initial_accumulator_value"
    }
    kwargs = {k: v for k, v in run.groups[0].items() if k != "params"}
    optimizer = getattr(torch.optim, run.optimizer)(model.parameters(), **kwargs)
    override = {name: [value] for name, value in settings.items()}
    with higher.innerloop_ctx(
        model, optimizer, copy_initial_weights=copy, override=override
    ) as (fmodel, diffopt):
        for _ in range(run.steps):
            diffopt.step(fmodel("inner"))
        outer = fmodel("outer")
        inputs = [*fmodel.parameters(time=0), *map_flat(settings)]
        grads = torch.autograd.grad(outer, inputs, allow_unused=True)
    names = list(run.problem.params)
    found = {
        n: None if g is None else g.numpy() for n, g in zip(names, grads, strict=False)
    }
    rest = iter(grads[len(names) :])
    given = {
        name: [_number(next(rest)) for _ in value]
        if isinstance(value, tuple)
        else _number(next(rest))
        for name, value in settings.items()
    }
    return {
        "outer": _ok(outer.item(), row["outer"]),
        "d_settings": {n: _ok(v, row["d_settings"][n]) for n, v in given.items()},
        "d_params": {n: _ok(v, row["d_params"][n].numpy()) for n, v in found.items()},
    }


def gradient_of_original(run: Run, *, copy: bool) -> list[torch.Tensor | None]:
    """`.grad` of the original model's parameters after the outer loss goes backward."""
    model = Model(run.problem)
    kwargs = run.groups[0]
    optimizer = getattr(torch.optim, run.optimizer)(model.parameters(), **kwargs)
    with higher.innerloop_ctx(model, optimizer, copy_initial_weights=copy) as (
        fmodel,
        diffopt,
    ):
        for _ in range(run.steps):
            diffopt.step(fmodel("inner"))
        fmodel("outer").backward()
    return [p.grad for p in model.parameters()]


def map_flat(settings: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors of the settings, pairs taken apart."""
    values = settings.values()
    return [t for v in values for t in (v if isinstance(v, tuple) else (v,))]


def _tensors(value: Any) -> Any:
    if np.ndim(value):
        return tuple(_tensors(v) for v in value)
    return torch.tensor(float(value), requires_grad=True)


def _number(grad: torch.Tensor | None) -> float | None:
    return None if grad is None else grad.item()


def _ok(value: Any, ours: Any) -> Any:
    if value is None or ours is None or np.any(np.equal(value, None)):
        return None
    largest = np.max(np.abs(ours))
    close = np.max(np.abs(np.subtract(value, ours))) <= AGREES * largest
    return "ok" if close else value

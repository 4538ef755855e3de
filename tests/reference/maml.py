"""A small MAML problem: sinusoids, four tasks, a network of two hidden layers."""

from typing import Any

import higher
import numpy as np
import torch
from torch.nn.functional import linear

from .differences import check
from .problems import Params

TASKS, SHOTS, QUERIES, HIDDEN, LR = 4, 5, 10, 8, 0.02
LAYERS = ("0", "2", "4")


def record() -> list[dict[str, Any]]:
    """Meta-losses and their gradients after 1 and 5 inner SGD steps."""
    params, data = problem()
    return [row(params, data, steps) for steps in (1, 5)]


def problem() -> tuple[Params, dict[str, torch.Tensor]]:
    """Initial parameters and the data of all tasks, tasks first."""
    draw = np.random.default_rng(11)
    sizes = [(1, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)]
    params: Params = {}
    for layer, (inputs, outputs) in zip(LAYERS, sizes, strict=True):
        weight = draw.standard_normal((outputs, inputs)) / inputs**0.5
        params[f"{layer}.weight"] = torch.as_tensor(weight)
        params[f"{layer}.bias"] = torch.as_tensor(0.5 * draw.standard_normal(outputs))
    amplitude = draw.uniform(0.1, 5.0, (TASKS, 1, 1))
    phase = draw.uniform(0.0, np.pi, (TASKS, 1, 1))
    data = {"amplitude": amplitude.ravel(), "phase": phase.ravel()}
    for name, count in (("support", SHOTS), ("query", QUERIES)):
        data[f"x_{name}"] = draw.uniform(-5.0, 5.0, (TASKS, count, 1))
        data[f"y_{name}"] = amplitude * np.sin(data[f"x_{name}"] - phase)
    return params, {name: torch.as_tensor(value) for name, value in data.items()}


def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
    """The network, with ReLU between its layers."""
    for layer in LAYERS:
        x = linear(x, params[f"{layer}.weight"], params[f"{layer}.bias"])
        x = torch.relu(x) if layer != LAYERS[-1] else x
    return x


def mse(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean squared error."""
    return ((apply(params, x) - y) ** 2).mean()


def adapted(
    params: Params, data: dict, task: int, steps: int, lr: Any, *, order: int = 2
) -> Params:
    """Parameters after the inner steps on one task."""
    for _ in range(steps):
        loss = mse(params, data["x_support"][task], data["y_support"][task])
        grads = torch.autograd.grad(
            loss, list(params.values()), create_graph=order == 2
        )
        pairs = zip(params.items(), grads, strict=True)
        params = {name: p - lr * g for (name, p), g in pairs}
    return params


def query_losses(
    params: Params, data: dict, steps: int, lr: Any, **options: Any
) -> torch.Tensor:
    """Loss of every task on its query points after adapting."""
    return torch.stack(
        [
            mse(
                adapted(params, data, task, steps, lr, **options),
                data["x_query"][task],
                data["y_query"][task],
            )
            for task in range(TASKS)
        ]
    )


def row(params: Params, data: dict, steps: int) -> dict[str, Any]:
    """One number of inner steps."""
    start = {name: p.clone().requires_grad_() for name, p in params.items()}
    lr = torch.tensor(LR, requires_grad=True)
    losses = query_losses(start, data, steps, lr)
    *grads, d_lr = torch.autograd.grad(losses.mean(), [*start.values(), lr])
    first = query_losses(start, data, steps, LR, order=1).mean()
    first_order = torch.autograd.grad(first, list(start.values()))
    meta_grad = dict(zip(start, grads, strict=True))

    def moved(h: float, d: Params | None = None) -> float:
        """Real runs: torch.optim.SGD on every task."""
        at = params if d is None else {n: p + h * d[n] for n, p in params.items()}
        rate = LR + h if d is None else LR
        return float(
            np.mean([sgd_loss(at, data, t, steps, rate) for t in range(TASKS)])
        )

    check(f"maml T{steps}: lr", d_lr.item(), moved, size=1e-3)
    for name, p in params.items():
        d = {n: torch.zeros_like(q) for n, q in params.items()}
        draw = np.random.default_rng(3).standard_normal(tuple(p.shape))
        d[name] = torch.as_tensor(draw)
        slope = (meta_grad[name] * d[name]).sum().item()
        check(f"maml T{steps}: {name}", slope, lambda h, d=d: moved(h, d), size=1e-2)
    _equals_higher(params, data, steps, meta_grad)
    last = {n: p.detach() for n, p in adapted(start, data, 0, steps, LR).items()}
    return {
        "name": f"T{steps}",
        "steps": steps,
        "lr": LR,
        "params": params,
        **data,
        "query_losses": losses,
        "meta_loss": losses.mean().item(),
        "meta_grad": meta_grad,
        "meta_grad_first_order": dict(zip(start, first_order, strict=True)),
        "d_lr": d_lr.item(),
        "adapted_first_task": last,
        "query_losses_before": query_losses(params, data, 0, LR),
    }


def network(params: Params) -> torch.nn.Sequential:
    """The network as a torch module."""
    model = torch.nn.Sequential(
        torch.nn.Linear(1, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, 1),
    )
    model.load_state_dict(params)
    return model


def sgd_loss(params: Params, data: dict, task: int, steps: int, lr: float) -> float:
    """Query loss of one task after torch.optim.SGD."""
    model = network(params)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = lr
    for _ in range(steps):
        optimizer.zero_grad()
        error = model(data["x_support"][task]) - data["y_support"][task]
        (error**2).mean().backward()
        optimizer.step()
    error = model(data["x_query"][task]) - data["y_query"][task]
    return (error**2).mean().item()


def _equals_higher(params: Params, data: dict, steps: int, meta_grad: Params) -> None:
    model = network(params)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for task in range(TASKS):
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (
            fmodel,
            diffopt,
        ):
            for _ in range(steps):
                error = fmodel(data["x_support"][task]) - data["y_support"][task]
                diffopt.step((error**2).mean())
            error = fmodel(data["x_query"][task]) - data["y_query"][task]
            ((error**2).mean() / TASKS).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, meta_grad[name], rtol=1e-10, atol=1e-12), name

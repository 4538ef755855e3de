"""Moving averages of the parameters along an SGD run, and derivatives through them."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from .differences import check
from .problems import Params, mlp
from .runs import Run, real
from .trajectories import stacked

STEPS, LR = 30, 0.1
DECAYS = (0.6, 0.9, 0.98)
"""The least is passed by the warmed-up decay on the way, the others are not."""


def record() -> list[dict[str, Any]]:
    """Plain, warmed-up and bias-corrected averages at three decays each."""
    return [row(kind, decay) for kind in AVERAGES for decay in DECAYS]


def plain(path: list[Params], decay: Any) -> tuple[list[Params], Params]:
    """Starts as the initial parameters."""
    return _averaged(path, lambda n: decay, path[0])


def warmup(path: list[Params], decay: Any) -> tuple[list[Params], Params]:
    """Decay min(decay, (1 + n) / (10 + n)) at the n-th update, counted from 1."""

    def at(n: int) -> Any:
        start = (1 + n) / (10 + n)
        return decay if decay < start else start

    return _averaged(path, at, path[0])


def debias(path: list[Params], decay: Any) -> tuple[list[Params], Params]:
    """Starts at 0 and is read divided by 1 - decay ** n."""
    zeros = {name: torch.zeros_like(p) for name, p in path[0].items()}
    shadows, last = _averaged(path, lambda n: decay, zeros)
    return shadows, {n: v / (1 - decay**STEPS) for n, v in last.items()}


AVERAGES: dict[str, Callable[..., tuple[list[Params], Params]]] = {
    "plain": plain,
    "warmup": warmup,
    "debias": debias,
}


def row(kind: str, decay: float) -> dict[str, Any]:
    """One average along the run, with the outer loss at its end."""
    run = Run(problem=mlp(), optimizer="SGD", groups=[{"lr": LR}], steps=STEPS)
    average = AVERAGES[kind]

    def outer_of(path: list[Params], decay: Any) -> torch.Tensor:
        return run.problem.outer(average(path, decay)[1])

    def moved(lr: float, params: Params) -> float:
        path = real(run, {**run.settings(), "0/lr": lr}, params)["params"]
        return outer_of(path, decay).item()

    start = {n: p.clone().requires_grad_() for n, p in run.problem.params.items()}
    hp = torch.tensor(decay, requires_grad=True), torch.tensor(LR, requires_grad=True)
    path = descent(run, start, hp[1])
    outer = outer_of(path, hp[0])
    grads = torch.autograd.grad(outer, [*hp, *start.values()], allow_unused=True)
    d_decay = 0.0 if grads[0] is None else grads[0].item()
    d_lr, d_params = grads[1].item(), dict(zip(start, grads[2:], strict=True))

    label, params = f"average {kind}/{decay}", run.problem.params
    exact = real(run, run.settings(), params)["params"]
    size = 0.3 * (1 - decay)
    at = lambda h: outer_of(exact, decay + h).item()
    check(f"{label}: decay", d_decay, at, size=size)
    check(f"{label}: lr", d_lr, lambda h: moved(LR + h, params), size=0.05)
    for name, p in params.items():
        d = torch.ones_like(p)
        check(
            f"{label}: {name}",
            d_params[name].sum().item(),
            lambda h, n=name, p=p, d=d: moved(LR, {**params, n: p + h * d}),
            size=0.1,
        )

    shadows, final = average(exact, decay)
    if kind == "plain":
        _equals_torch(exact, shadows, decay)
    return {
        "name": f"{kind}/{decay}",
        "kind": kind,
        "decay": decay,
        "optimizer": "SGD",
        "kwargs": {"lr": LR},
        "problem": "mlp",
        "steps": STEPS,
        "params": stacked(exact),
        "shadow": stacked(shadows),
        "average": final,
        "outer": outer.item(),
        "d_decay": d_decay,
        "d_lr": d_lr,
        "d_params": d_params,
    }


def descent(run: Run, start: Params, lr: torch.Tensor) -> list[Params]:
    """Gradient descent whose every point depends on the start and lr."""
    path = [start]
    for _ in range(run.steps):
        params = path[-1]
        loss = run.problem.inner(params)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        pairs = zip(params.items(), grads, strict=True)
        path.append({name: p - lr * g for (name, p), g in pairs})
    return path


def _averaged(
    path: list[Params], decay: Callable[[int], Any], first: Params
) -> tuple[list[Params], Params]:
    shadows = [first]
    for n, params in enumerate(path[1:], start=1):
        d, before = decay(n), shadows[-1]
        shadows.append({k: d * before[k] + (1 - d) * p for k, p in params.items()})
    return shadows, shadows[-1]


def _equals_torch(path: list[Params], shadows: list[Params], decay: float) -> None:
    module = torch.nn.ParameterDict(
        {n.replace(".", "_"): p for n, p in path[0].items()}
    )
    averaged = AveragedModel(module, avg_fn=get_ema_avg_fn(decay))
    for params, shadow in zip(path, shadows, strict=True):
        with torch.no_grad():
            for name, p in params.items():
                module[name.replace(".", "_")].copy_(p)
        averaged.update_parameters(module)  # the first call copies
        for name, value in shadow.items():
            theirs = averaged.module[name.replace(".", "_")]
            assert torch.allclose(theirs, value, rtol=1e-12, atol=1e-14), name

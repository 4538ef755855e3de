"""torch's L-BFGS: trajectories, and derivatives in lr and the initial parameters."""

from typing import Any

import numpy as np
import torch

from .differences import check
from .line_search import strong_wolfe
from .problems import Params, Problem, mlp, rosenbrock

CALLS = 10
TIGHT = dict(tolerance_grad=1e-14, tolerance_change=1e-16)
"""Tolerances that no run here meets, so that every iteration happens."""

CONFIGURATIONS: dict[str, dict] = {
    "lbfgs": dict(lr=0.5),
    "lbfgs_lr": dict(lr=0.9),
    "lbfgs_history": dict(lr=0.7, history_size=3),
    "lbfgs_wolfe": dict(lr=1.0, line_search_fn="strong_wolfe"),
    "lbfgs_wolfe_lr": dict(lr=0.4, history_size=4, line_search_fn="strong_wolfe"),
}


def record() -> list[dict[str, Any]]:
    """Ten calls of one iteration each, and one call of up to ten."""
    return [
        row(f"{name}/{problem.name}", problem, kwargs)
        for problem in (mlp(), rosenbrock())
        for name, kwargs in CONFIGURATIONS.items()
    ]


def row(name: str, problem: Problem, kwargs: dict) -> dict[str, Any]:
    """One configuration on one problem."""
    single = {**kwargs, **TIGHT, "max_iter": 1, "max_eval": 250}
    path, losses, lengths, evals = calls(problem, problem.params, single, CALLS)
    many = {**kwargs, "max_iter": CALLS}
    one_call, _, _, one_evals = calls(problem, problem.params, many, 1)
    made = {
        "name": name,
        "problem": problem.name,
        "kwargs": single,
        "calls": CALLS,
        "params": {n: torch.stack([p[n] for p in path]) for n in problem.params},
        "losses": losses,
        "step_lengths": lengths,
        "func_evals": evals,
        "one_call": {
            "kwargs": many,
            "final": one_call[-1],
            "func_evals": int(one_evals[-1]),
        },
    }
    return made | {
        "hypergradients": [
            hypergradient(f"{name}/T{steps}", problem, single, steps)
            for steps in (1, 3, 6)
        ]
    }


def calls(problem: Problem, initial: Params, kwargs: dict, count: int) -> tuple:
    """Parameters from call to call, losses, step lengths, evaluations so far."""
    params = {n: p.detach().clone().requires_grad_() for n, p in initial.items()}
    optimizer = torch.optim.LBFGS(params.values(), **kwargs)
    path = [{n: p.detach().clone() for n, p in params.items()}]
    losses, lengths, evals = [], [], []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = problem.inner(params)
        loss.backward()
        return loss

    for _ in range(count):
        losses.append(float(optimizer.step(closure)))
        state = optimizer.state[next(iter(params.values()))]
        lengths.append(float(state["t"]))
        evals.append(state["func_evals"])
        path.append({n: p.detach().clone() for n, p in params.items()})
    return path, np.array(losses), np.array(lengths), np.array(evals)


def hypergradient(
    name: str, problem: Problem, kwargs: dict, steps: int
) -> dict[str, Any]:
    """Outer loss after a number of iterations, and its derivatives."""
    lr = torch.tensor(kwargs["lr"], requires_grad=True)
    start = {n: p.clone().requires_grad_() for n, p in problem.params.items()}
    final = functional(problem, start, lr, kwargs, steps)
    outer = problem.outer(final)
    d_lr, *grads = torch.autograd.grad(outer, [lr, *start.values()], allow_unused=True)
    slope = 0.0 if d_lr is None else d_lr.item()
    d_params = dict(zip(start, grads, strict=True))
    exact = calls(problem, problem.params, kwargs, steps)[0][-1]
    for leaf, value in final.items():
        assert torch.allclose(value, exact[leaf], rtol=1e-11, atol=1e-12), (name, leaf)

    def moved(h: float, d: Params | None = None) -> float:
        at = {n: p + (h * d[n] if d else 0) for n, p in problem.params.items()}
        changed = kwargs if d else {**kwargs, "lr": kwargs["lr"] + h}
        with torch.no_grad():
            return problem.outer(calls(problem, at, changed, steps)[0][-1]).item()

    check(f"{name}: lr", slope, moved, size=0.05)
    draw = np.random.default_rng(7)
    for _ in range(3):
        d = {
            n: torch.as_tensor(draw.standard_normal(p.shape))
            for n, p in problem.params.items()
        }
        along = sum(float((d_params[n] * d[n]).sum()) for n in d)
        check(f"{name}: params", along, lambda h, d=d: moved(h, d), size=0.01)
    return {
        "steps": steps,
        "outer": outer.item(),
        "final": final,
        "d_settings": {"lr": slope},
        "d_params": d_params,
    }


def functional(
    problem: Problem, start: Params, lr: torch.Tensor, kwargs: dict, steps: int
) -> Params:
    """The iterations as differentiable code (torch/optim/lbfgs.py, step)."""
    shapes = {n: p.shape for n, p in start.items()}
    x = torch.cat([p.reshape(-1) for p in start.values()])

    def unflatten(x: torch.Tensor) -> Params:
        parts = x.split([shape.numel() for shape in shapes.values()])
        return {n: v.view(s) for (n, s), v in zip(shapes.items(), parts, strict=True)}

    def evaluate(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = problem.inner(unflatten(x))
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss, grad

    history: list[tuple[torch.Tensor, torch.Tensor]] = []
    size = kwargs.get("history_size", 100)
    before = None
    for _ in range(steps):
        loss, grad = evaluate(x)
        if before is None:
            d, t = -grad, torch.clamp(1 / grad.abs().sum(), max=1.0) * lr
        else:
            s, y = before[0], grad - before[1]
            if y @ s > 1e-10:
                history = [*history, (s, y)][-size:]
            d, t = direction(grad, history), lr
        if kwargs.get("line_search_fn"):
            t = strong_wolfe(evaluate, x, t, d, loss, grad, kwargs["tolerance_change"])
        before = d * t, grad
        x = x + d * t
    return unflatten(x)


def direction(
    grad: torch.Tensor, history: list[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Minus the approximate inverse Hessian times the gradient, in two loops."""
    q, kept = -grad, []
    for s, y in reversed(history):
        al = (s @ q) / (y @ s)
        q = q - al * y
        kept.append(al)
    s, y = history[-1]
    r = q * (y @ s) / (y @ y)
    for (s, y), al in zip(history, reversed(kept), strict=True):
        r = r + s * (al - (y @ r) / (y @ s))
    return r

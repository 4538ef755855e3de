"""Hypergradients of base lr and the schedule's own settings through scheduled runs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .differences import check
from .problems import mlp
from .runs import Run, functional, real
from .schedules import build

# torch's scheduler, its fixed arguments, the learned ones, and step -> lr
LEARNED: dict[str, tuple[str, dict, dict, Callable[..., Any]]] = {
    "step": (
        "StepLR",
        dict(step_size=5),
        dict(gamma=0.6),
        lambda t, base, gamma: base * gamma ** (t // 5),
    ),
    "multi_step": (
        "MultiStepLR",
        dict(milestones=[3, 8, 15]),
        dict(gamma=0.6),
        lambda t, base, gamma: base * gamma ** sum(t >= m for m in (3, 8, 15)),
    ),
    "exponential": (
        "ExponentialLR",
        dict(),
        dict(gamma=0.93),
        lambda t, base, gamma: base * gamma**t,
    ),
    "cosine": (
        "CosineAnnealingLR",
        dict(T_max=14),
        dict(eta_min=0.01),
        lambda t, base, eta_min: (
            eta_min + (base - eta_min) * (1 + math.cos(math.pi * t / 14)) / 2
        ),
    ),
    "warm_restarts": (
        "CosineAnnealingWarmRestarts",
        dict(T_0=6),
        dict(eta_min=0.01),
        lambda t, base, eta_min: (
            eta_min + (base - eta_min) * (1 + math.cos(math.pi * (t % 6) / 6)) / 2
        ),
    ),
    "constant": (
        "ConstantLR",
        dict(total_iters=7),
        dict(factor=0.4),
        lambda t, base, factor: base * (factor if t < 7 else 1),
    ),
    "linear": (
        "LinearLR",
        dict(total_iters=10),
        dict(start_factor=0.3, end_factor=0.8),
        lambda t, base, start_factor, end_factor: (
            base * (start_factor + (end_factor - start_factor) * min(t, 10) / 10)
        ),
    ),
    "polynomial": (
        "PolynomialLR",
        dict(total_iters=30),
        dict(power=1.7),
        lambda t, base, power: base * (1 - t / 30) ** power,
    ),
}
SCHEDULED = {
    "sgd": ("SGD", dict(lr=0.15, momentum=0.5)),
    "adam": ("Adam", dict(lr=0.0225, eps=1e-3)),
}
SCHEDULED_STEPS = 20


def record() -> list[dict[str, Any]]:
    """Derivatives of an outer loss in the base lr and the schedule's own settings."""
    chosen = [(s, o) for s in LEARNED for o in SCHEDULED]
    return [scheduled(f"{s}/{o}", s, o) for s, o in chosen]


def scheduled(name: str, schedule: str, optimizer: str) -> dict[str, Any]:
    """One run of 20 steps whose lr is a schedule's."""
    scheduler, fixed, learned, rate = LEARNED[schedule]
    kind, kwargs = SCHEDULED[optimizer]
    values = {"base_lr": kwargs["lr"], **learned}

    def run_at(lrs: list) -> Run:
        per_step = [{"lr": lr} for lr in lrs]
        return Run(
            problem=mlp(),
            optimizer=kind,
            groups=[kwargs],
            steps=SCHEDULED_STEPS,
            per_step=per_step,
        )

    def torch_lrs(values: dict[str, float]) -> list[float]:
        learned = {k: v for k, v in values.items() if k != "base_lr"}
        p = torch.nn.Parameter(torch.zeros(1))
        o = torch.optim.SGD([p], lr=values["base_lr"])
        built, lrs = build(scheduler, o, {**fixed, **learned}), []
        for _ in range(SCHEDULED_STEPS):
            lrs.append(o.param_groups[0]["lr"])
            o.step()
            built.step()
        return lrs

    exact = torch_lrs(values)
    run = run_at(exact)
    hp = {k: torch.tensor(v, requires_grad=True) for k, v in values.items()}
    base, *others = hp.values()
    named = dict(zip(learned, others, strict=True))
    lrs = [rate(t, base, **named) for t in range(SCHEDULED_STEPS)]
    assert np.allclose([float(lr) for lr in lrs], exact, rtol=1e-12, atol=0), name
    settings = {
        k: torch.tensor(v) for k, v in run.settings().items() if "step" not in k
    }
    steps = {f"step {t}/lr": lr for t, lr in enumerate(lrs)}
    params = {n: p.requires_grad_() for n, p in run.problem.params.items()}
    final, outer = functional(run, settings | steps, params)
    inputs = [*hp.values(), *params.values()]
    grads = torch.autograd.grad(outer, inputs)
    d_values = {key: g.item() for key, g in zip(hp, grads, strict=False)}
    for key, d_value in d_values.items():

        def moved(h: float, key: str = key) -> float:
            again = run_at(torch_lrs({**values, key: values[key] + h}))
            return real(again, again.settings(), again.problem.params)["outer"]

        check(f"schedule {name}: {key}", d_value, moved, size=0.05)
    return {
        "name": name,
        "scheduler": scheduler,
        "scheduler_kwargs": fixed,
        "values": values,
        "optimizer": kind,
        "kwargs": kwargs,
        "problem": "mlp",
        "steps": SCHEDULED_STEPS,
        "lrs": torch.tensor(exact),
        "outer": outer.item(),
        "final": final,
        "d_values": d_values,
        "d_params": dict(zip(params, grads[len(hp) :], strict=True)),
    }

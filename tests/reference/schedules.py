"""Learning rates of torch's schedulers over 241 steps."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler

STEPS = 241
BASE = (0.1, 0.05)
"""The lr of the two parameter groups that every scheduler is recorded on."""

LAMBDAS: dict[str, Callable[[int], float]] = {
    "1 / (1 + 0.05 t)": lambda t: 1 / (1 + 0.05 * t),
    "0.98 ** t": lambda t: 0.98**t,
}

CURVES: dict[str, tuple[str, dict]] = {
    "step": ("StepLR", dict(step_size=50)),
    "step_gamma": ("StepLR", dict(step_size=7, gamma=0.8)),
    "multi_step": ("MultiStepLR", dict(milestones=[50, 125, 160])),
    "multi_step_repeated": ("MultiStepLR", dict(milestones=[30, 30, 90], gamma=0.5)),
    "exponential": ("ExponentialLR", dict(gamma=0.95)),
    "exponential_slow": ("ExponentialLR", dict(gamma=0.999)),
    "cosine": ("CosineAnnealingLR", dict(T_max=50)),
    "cosine_eta_min": ("CosineAnnealingLR", dict(T_max=75, eta_min=0.001)),
    "constant": ("ConstantLR", dict()),
    "constant_factor": ("ConstantLR", dict(factor=0.3, total_iters=40)),
    "linear": ("LinearLR", dict()),
    "linear_factors": (
        "LinearLR",
        dict(start_factor=0.25, end_factor=0.9, total_iters=70),
    ),
    "polynomial": ("PolynomialLR", dict(total_iters=100)),
    "polynomial_power": ("PolynomialLR", dict(total_iters=120, power=2.5)),
    "one_cycle": ("OneCycleLR", dict(max_lr=0.5, total_steps=STEPS)),
    "one_cycle_epochs": (
        "OneCycleLR",
        dict(max_lr=0.3, epochs=11, steps_per_epoch=22, pct_start=0.4),
    ),
    "one_cycle_three_phase": (
        "OneCycleLR",
        dict(
            max_lr=[0.5, 0.2],
            total_steps=STEPS,
            pct_start=0.2,
            anneal_strategy="linear",
            three_phase=True,
            div_factor=10.0,
            final_div_factor=100.0,
        ),
    ),
    "one_cycle_momentum": (
        "OneCycleLR",
        dict(
            max_lr=0.4,
            total_steps=STEPS,
            three_phase=True,
            base_momentum=0.8,
            max_momentum=0.99,
        ),
    ),
    "one_cycle_fixed_momentum": (
        "OneCycleLR",
        dict(max_lr=0.4, total_steps=STEPS, cycle_momentum=False),
    ),
    "warm_restarts": ("CosineAnnealingWarmRestarts", dict(T_0=20)),
    "warm_restarts_mult": (
        "CosineAnnealingWarmRestarts",
        dict(T_0=10, T_mult=2, eta_min=0.001),
    ),
    "cyclic": ("CyclicLR", dict(base_lr=0.01, max_lr=0.2, step_size_up=15)),
    "cyclic_triangular2": (
        "CyclicLR",
        dict(
            base_lr=0.01,
            max_lr=0.2,
            step_size_up=10,
            step_size_down=25,
            mode="triangular2",
        ),
    ),
    "cyclic_exp_range": (
        "CyclicLR",
        dict(
            base_lr=[0.01, 0.02],
            max_lr=[0.2, 0.1],
            step_size_up=15,
            mode="exp_range",
            gamma=0.99,
        ),
    ),
    "cyclic_fixed_momentum": (
        "CyclicLR",
        dict(base_lr=0.02, max_lr=0.1, step_size_up=20, cycle_momentum=False),
    ),
}

PARTS: dict[str, tuple[list[tuple[str, dict]], list[int]]] = {
    "sequential": (
        [
            ("LinearLR", dict(start_factor=0.1, total_iters=20)),
            ("ExponentialLR", dict(gamma=0.97)),
        ],
        [20],
    ),
    "sequential_three": (
        [
            ("ConstantLR", dict(factor=0.1, total_iters=10)),
            ("CosineAnnealingLR", dict(T_max=60, eta_min=0.002)),
            ("StepLR", dict(step_size=30, gamma=0.5)),
        ],
        [15, 100],
    ),
    "warmup_cosine": (
        [
            ("LinearLR", dict(start_factor=0.05, total_iters=30)),
            ("CosineAnnealingLR", dict(T_max=150, eta_min=0.001)),
        ],
        [30],
    ),
    "warmup_cosine_factors": (
        [
            ("LinearLR", dict(start_factor=0.2, end_factor=0.8, total_iters=7)),
            ("CosineAnnealingLR", dict(T_max=60)),
        ],
        [7],
    ),
}


def record() -> list[dict[str, Any]]:
    """Every curve: the lr, and the momentum where it is cycled, before each step."""
    rows = []
    for name, (scheduler, kwargs) in CURVES.items():
        lrs, momenta = curve(lambda o, s=scheduler, k=kwargs: build(s, o, k))
        rows.append(_row(name, scheduler, kwargs, lrs, momenta))
    lrs, _ = curve(lambda o: lr_scheduler.LambdaLR(o, list(LAMBDAS.values())))
    rows.append(_row("lambda", "LambdaLR", {"lr_lambda": list(LAMBDAS)}, lrs))
    for name, (parts, milestones) in PARTS.items():

        def sequence(o: Any, parts: Any = parts, at: Any = milestones) -> Any:
            built = [build(s, o, kwargs) for s, kwargs in parts]
            return lr_scheduler.SequentialLR(o, built, milestones=at)

        kwargs = {"milestones": milestones, "schedulers": [list(p) for p in parts]}
        rows.append(_row(name, "SequentialLR", kwargs, curve(sequence)[0]))
    return rows


def build(scheduler: str, optimizer: torch.optim.Optimizer, kwargs: dict) -> Any:
    """torch's scheduler of an optimizer."""
    return getattr(lr_scheduler, scheduler)(optimizer, **kwargs)


def curve(make: Callable[[Any], Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """lr and momentum of both groups before each step, `[STEPS, 2]` each."""
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in BASE]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, BASE, strict=True)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR's own call of a deprecated form
        scheduler = make(optimizer)
        for t in range(STEPS):
            rows.append([[g["lr"], g["momentum"]] for g in optimizer.param_groups])
            optimizer.step()
            if t < STEPS - 1:
                scheduler.step()
    both = torch.tensor(rows)
    return both[..., 0], both[..., 1]


def _row(
    name: str, scheduler: str, kwargs: dict, lrs: Any, momenta: Any = None
) -> dict[str, Any]:
    row = {
        "name": name,
        "scheduler": scheduler,
        "kwargs": kwargs,
        "base_lrs": list(BASE),
        "lrs": lrs,
    }
    cycled = momenta is not None and bool((momenta != 0.9).any())
    return row | ({"momentum": momenta} if cycled else {})

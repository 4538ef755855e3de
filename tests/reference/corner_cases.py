"""Runs at the edges: settings of 0, groups, overrides, branches, clipping, no gradient.

Every row says in `kind` which edge it is.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .configurations import CONFIGURATIONS, GROUPS, ZEROS
from .differences import check
from .higher_side import compared, gradient_of_original
from .hypergradients import hypergradient
from .problems import mlp, zero_gradient
from .runs import Run, functional, real, unclipped_norms

MOMENTUM = ("SGD", dict(lr=0.05, momentum=0.9))
ADAM = ("Adam", dict(lr=0.03, betas=(0.7, 0.9), eps=1e-3))
RMSPROP = ("RMSprop", dict(lr=0.005, alpha=0.95, momentum=0.6))
DECAYED = {
    "sgd": ("SGD", dict(lr=0.1, momentum=0.5, weight_decay=0.1)),
    "adam": ("Adam", dict(lr=0.02, weight_decay=0.1, eps=1e-3)),
    "adamw": ("AdamW", dict(lr=0.02, weight_decay=0.1, eps=1e-3)),
}
"""Optimizers that would move a parameter without gradient by decaying it."""

PER_STEP: dict[str, tuple[str, dict, list[dict]]] = {
    "sgd_lr": (
        "SGD",
        dict(lr=0.05, momentum=0.5),
        [dict(lr=lr) for lr in (0.1, 0.05, 0.2, 0.01, 0.07)],
    ),
    "sgd_lr_momentum": (
        "SGD",
        dict(lr=0.05, momentum=0.5),
        [
            dict(lr=lr, momentum=momentum)
            for lr, momentum in zip(
                (0.1, 0.05, 0.2, 0.01, 0.07), (0.5, 0.9, 0.1, 0.3, 0.6), strict=True
            )
        ],
    ),
    "sgd_one_step": ("SGD", dict(lr=0.05, momentum=0.5), [{}, dict(lr=0.2), {}, {}]),
    "sgd_zero_momentum_mid": (
        "SGD",
        dict(lr=0.05, momentum=0.5),
        [
            dict(lr=lr, momentum=momentum)
            for lr, momentum in zip(
                (0.1, 0.05, 0.2, 0.01, 0.07), (0.5, 0.9, 0.0, 0.3, 0.6), strict=True
            )
        ],
    ),
    "adam_lr": (
        "Adam",
        dict(lr=0.01, eps=1e-3),
        [dict(lr=lr) for lr in (0.02, 0.01, 0.03, 0.005, 0.015)],
    ),
    "adam_weight_decay": (
        "Adam",
        dict(lr=0.02, eps=1e-3),
        [dict(weight_decay=w) for w in (0.0, 0.1, 0.0, 0.05, 0.0)],
    ),
}

BRANCHED = (
    "sgd_momentum",
    "adam_eps",
    "adamw_amsgrad",
    "nadam_wd",
    "radam_betas",
    "adagrad_full",
    "adadelta_full",
    "rmsprop_full",
    "adamax_wd",
    "asgd_strong",
    "rprop_etas",
)

AT_ZERO_GRADIENT: dict[str, tuple[str, dict]] = {
    "sgd": ("SGD", dict(momentum=0.5)),
    "adam": ("Adam", {}),
    "adam_amsgrad": ("Adam", dict(amsgrad=True)),
    "adamw": ("AdamW", {}),
    "nadam": ("NAdam", {}),
    "radam": ("RAdam", dict(betas=(0.8, 0.9))),
    "adagrad": ("Adagrad", dict(initial_accumulator_value=0.0)),
    "adadelta": ("Adadelta", {}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop_momentum": ("RMSprop", dict(momentum=0.5)),
    "rmsprop_centered": ("RMSprop", dict(centered=True, momentum=0.5)),
    "adamax": ("Adamax", {}),
    "asgd": ("ASGD", {}),
}


def record() -> list[dict[str, Any]]:
    """All rows."""
    kinds = (
        zeros,
        groups,
        per_step,
        branches,
        clipping,
        frozen,
        unused,
        averages,
        copies,
        second_derivatives,
        zero_gradients,
    )
    return [row for kind in kinds for row in kind()]


def made(kind: str, name: str, run: Run, **options: Any) -> dict[str, Any]:
    """A row with its kind."""
    row = hypergradient(f"{kind}/{name}", run, **options)
    return {**row, "kind": kind}


def simple(optimizer: str, kwargs: dict, steps: int = 5, **options: Any) -> Run:
    """A run on the network with one group."""
    return Run(
        **{"problem": mlp(), **options},
        optimizer=optimizer,
        groups=[kwargs],
        steps=steps,
    )


def zeros() -> list[dict[str, Any]]:
    """Settings of exactly 0, where torch leaves whole terms out."""
    return [made("zero", n, simple(*chosen)) for n, chosen in ZEROS.items()]


def groups() -> list[dict[str, Any]]:
    """Two groups of parameters with settings of their own."""
    rows = []
    for name, (optimizer, listed) in GROUPS.items():
        run = Run(problem=mlp(), optimizer=optimizer, groups=listed, steps=5)
        rows.append(made("groups", name, run))
    return rows


def per_step() -> list[dict[str, Any]]:
    """Settings of single steps; a step without one has the optimizer's own."""
    rows = []
    for name, (optimizer, kwargs, overrides) in PER_STEP.items():
        run = simple(optimizer, kwargs, len(overrides), per_step=overrides)
        # a momentum that turns exactly 0 after others is a jump of torch's
        skip = ("step 2/momentum",) if "zero_momentum" in name else ()
        rows.append(made("per_step", name, run, skip=skip))
    return rows


def branches() -> list[dict[str, Any]]:
    """Five steps from an optimizer that has done four; its state is a constant."""
    rows = []
    for name in BRANCHED:
        optimizer, kwargs, _ = CONFIGURATIONS[name]
        warm = simple(optimizer, kwargs, 4)
        found = real(warm, warm.settings(), warm.problem.params)
        problem = replace(warm.problem, params=found["params"][-1])
        run = simple(optimizer, kwargs, problem=problem, start=found["state"])
        state = {
            leaf: {k: v for k, v in entries.items() if v is not None}
            for leaf, entries in found["state"].items()
        }
        row = made("branch", name, run)
        rows.append(row | {"start": {"params": problem.params, "state": state}})
    return rows


def clipping() -> list[dict[str, Any]]:
    """Gradients clipped by their global norm, at every step, at none, at some."""
    rows = []
    for name, chosen in (("sgd", MOMENTUM), ("adam", ADAM), ("rmsprop", RMSPROP)):
        norms = unclipped_norms(simple(*chosen, 12))
        middle = float(np.sort(norms)[5:7].mean())
        for kind, limit, steps in (
            ("active", 0.05, 5),
            ("inactive", 50.0, 5),
            ("mixed", middle, 12),
        ):
            row = made("clip", f"{kind}/{name}", simple(*chosen, steps, clip=limit))
            rows.append(row | {"max_norm": limit, "unclipped_norms": norms[:steps]})
    return rows


def frozen() -> list[dict[str, Any]]:
    """Parameters with requires_grad=False: no update, no decay, no state."""
    rows = []
    for name, chosen in DECAYED.items():
        held = ("0.bias",) if name == "sgd" else ("0.weight", "2.bias")
        row = made("frozen", name, simple(*chosen, frozen=held))
        rows.append(row | {"frozen": list(held)})
    return rows


def unused() -> list[dict[str, Any]]:
    """A parameter that the inner objective does not use: skipped likewise.

    With a gradient of zeros instead of none, torch would decay it.
    """
    problem = mlp(unused=True)
    zero = replace(problem, inner=lambda p: problem.inner(p) + 0 * p["unused"].sum())
    rows = []
    for name, chosen in DECAYED.items():
        row = made("unused", name, simple(*chosen, problem=problem))
        other = simple(*chosen, problem=zero)
        decayed = real(other, other.settings(), zero.params)["params"][-1]
        rows.append(row | {"final_with_zero_gradient": decayed})
    return rows


def averages() -> list[dict[str, Any]]:
    """The outer loss at ASGD's average, `judged: ax`."""
    rows = []
    for name in ("asgd", "asgd_strong"):
        optimizer, kwargs, _ = CONFIGURATIONS[name]
        for steps in (2, 5, 12):
            run = simple(optimizer, kwargs, steps, average=True)
            row = made("average", f"{name}/T{steps}", run)
            rows.append(row | {"judged": "ax"})
    return rows


def copies() -> list[dict[str, Any]]:
    """What the original model's parameters get from `higher`, copied or not."""
    rows = []
    for name, chosen in (("sgd", MOMENTUM), ("rmsprop", RMSPROP)):
        run = simple(*chosen)
        for copy in (True, False):
            row = made("copy_initial_weights", f"{name}/{copy}", run)
            original = gradient_of_original(run, copy=copy)
            given = dict(zip(run.problem.params, original, strict=True))
            for leaf, grad in given.items():
                right = row["d_params"][leaf]
                if copy:
                    assert grad is None, leaf
                else:
                    assert torch.allclose(grad, right, rtol=1e-10, atol=1e-13), leaf
            beside = {"copy_initial_weights": copy, "d_original": given}
            rows.append(row | beside | {"higher": compared(run, row, copy=copy)})
    return rows


def second_derivatives() -> list[dict[str, Any]]:
    """The second derivative of the outer loss in lr."""
    rows = []
    for name in ("sgd", "sgd_momentum", "adam", "adam_eps", "rmsprop", "rmsprop_full"):
        optimizer, kwargs, _ = CONFIGURATIONS[name]
        for steps in (1, 5):
            row = made(
                "second_lr", f"{name}/T{steps}", simple(optimizer, kwargs, steps)
            )
            run = simple(optimizer, kwargs, steps)
            settings, params = run.settings(), run.problem.params
            lr = torch.tensor(settings["0/lr"], requires_grad=True)
            hp = {k: torch.tensor(v) for k, v in settings.items()} | {"0/lr": lr}
            outer = functional(run, hp, params)[1]
            (first,) = torch.autograd.grad(outer, lr, create_graph=True)
            (second,) = torch.autograd.grad(first, lr)

            def moved(h: float, run: Run = run, settings: dict = settings) -> float:
                changed = {**settings, "0/lr": settings["0/lr"] + h}
                return real(run, changed, run.problem.params)["outer"]

            check(row["name"], second.item(), moved, size=0.1, kind="second")
            rows.append(row | {"d2_lr": second.item()})
    return rows


def zero_gradients() -> list[dict[str, Any]]:
    """Gradients of exactly 0, where the derivative is finite, and may be huge."""
    rows = []
    for name, (optimizer, kwargs) in AT_ZERO_GRADIENT.items():
        has_eps = optimizer not in ("SGD", "ASGD")
        for label, extra in (("eps", dict(eps=1e-3)), ("default", {})):
            if not has_eps and label == "eps":
                continue
            for steps in (1, 3) if label == "eps" or not has_eps else (1,):
                run = replace(
                    simple(optimizer, {"lr": 0.1, **kwargs, **extra}, steps),
                    problem=zero_gradient(),
                )
                rows.append(_at_zero(f"{name}/{label}/T{steps}", run))
    still = {**zero_gradient().params, "x": torch.ones(2)}
    run = replace(
        simple("SGD", dict(lr=0.1), 2, clip=1.0),
        problem=replace(zero_gradient(), params=still),
    )
    row = _at_zero("clip_at_zero", run)
    return [*rows, row | {"max_norm": 1.0, "start": {"params": still}}]


def _at_zero(name: str, run: Run) -> dict[str, Any]:
    # g / (|g| + eps) has a slope at 0 but no curvature: difference from one side
    kinds = {"0/weight_decay": "forward"}
    return made("zero_gradient", name, run, kinds=kinds, entry_by_entry=True)

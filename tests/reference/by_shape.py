"""Adafactor and Muon, whose updates depend on the shape of a parameter."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.optim import _muon

from .hypergradients import hypergradient
from .problems import Problem, mlp, rosenbrock
from .runs import Run, real
from .trajectories import STEPS, stacked, trajectory

ADAFACTOR: dict[str, dict] = {
    "adafactor": dict(lr=0.1),
    "adafactor_all": dict(
        lr=0.05, beta2_decay=-0.6, eps=(0.06, 0.4), d=1.3, weight_decay=0.05
    ),
    # from step 7 on the rate is that of the step
    "adafactor_large_lr": dict(lr=0.4, beta2_decay=-0.3, d=2.5),
    "adafactor_maximize": dict(lr=0.02, weight_decay=0.1, maximize=True),
}
ADAFACTOR_ZEROS: dict[str, dict] = {
    "adafactor_lr_0": dict(lr=0.0, beta2_decay=0.0, weight_decay=0.0),
    "adafactor_eps_0": dict(lr=0.05, eps=(0.0, 0.0)),
}
MUON: dict[str, dict] = {
    "muon": dict(lr=0.03),
    "muon_all": dict(
        lr=0.05,
        weight_decay=0.02,
        momentum=0.7,
        nesterov=False,
        ns_coefficients=(3.0, -3.2, 1.2),
        ns_steps=3,
        adjust_lr_fn="match_rms_adamw",
    ),
    # the norm is sometimes below
    "muon_eps": dict(lr=0.02, momentum=0.8, eps=0.6, ns_steps=2),
}
MUON_ZEROS: dict[str, dict] = {
    "muon_0": dict(lr=0.03, weight_decay=0.0, momentum=0.0),
    "muon_lr_0": dict(lr=0.0, ns_coefficients=(1.5, -0.5, 0.0), eps=0.0),
}
AT_ZERO: dict[str, tuple[str, dict]] = {
    "adafactor_at_zero": ("Adafactor", dict(lr=0.05, eps=(0.02, 0.1))),
    "muon_at_zero": ("Muon", dict(lr=0.05, eps=0.05, ns_steps=2)),
}
"""Matrices of 0 whose gradient is 0: `eps` is large, so that the slope is moderate."""

MIDDLE = 5
"""The step after which torch's state is kept, to go on from."""

MATRICES = ("0.weight", "2.weight")


def record() -> list[dict[str, Any]]:
    """Trajectories of 12 steps, and derivatives after 1, 5 and 12."""
    rows = []
    for problem in (mlp(), rosenbrock(), axes()):
        for name, kwargs in ADAFACTOR.items():
            rows.append(row(name, problem, "Adafactor", kwargs))
    for name, kwargs in ADAFACTOR_ZEROS.items():
        rows.append(row(name, mlp(), "Adafactor", kwargs))
    with in_float64():
        for name, kwargs in {**MUON, **MUON_ZEROS}.items():
            rows.append(row(name, mlp(), "Muon", kwargs))
        for name, (optimizer, kwargs) in AT_ZERO.items():
            rows.append(row(name, zero_matrix(), optimizer, kwargs))
    by_name = {found["name"]: found for found in rows}
    for name, kwargs in (ADAFACTOR | MUON).items():
        with in_float64():
            of = "Adafactor" if name in ADAFACTOR else "Muon"
            run = run_of(mlp(), of, kwargs, MIDDLE)
            state = real(run, run.settings(), run.problem.params)["state"]
        by_name[f"{name}/mlp"]["middle_state"] = state
    for name, kwargs in MUON.items():
        run = run_of(mlp(), "Muon", kwargs)
        path = real(run, run.settings(), run.problem.params)["params"]
        by_name[f"{name}/mlp"]["bfloat16_params"] = stacked(path)
    return rows


def row(name: str, problem: Problem, optimizer: str, kwargs: dict) -> dict[str, Any]:
    """A trajectory with its derivatives."""
    full = f"{name}/{problem.name}"
    found = trajectory(full, run_of(problem, optimizer, kwargs))
    derived = {}
    for steps in (1, 5, STEPS):
        made = hypergradient(
            f"{full}/T{steps}",
            run_of(problem, optimizer, kwargs, steps),
            kinds=bends(optimizer, kwargs),
        )
        kept = ("settings", "outer", "final", "d_settings", "d_params")
        derived[f"T{steps}"] = {key: made[key] for key in kept}
    found["kwargs"] = kwargs
    # the network and Rosenbrock's function are in the section `problems`
    data = problem.data if problem.name in ("axes", "zero_matrix") else {}
    return {**found, **data, "doc": problem.doc, "hypergradients": derived}


def run_of(problem: Problem, optimizer: str, kwargs: dict, steps: int = STEPS) -> Run:
    """A run; Muon gets the matrices alone, the rest stays as it is."""
    if optimizer != "Muon" or problem.name != "mlp":
        return Run(problem=problem, optimizer=optimizer, groups=[kwargs], steps=steps)
    return Run(
        problem=problem,
        optimizer=optimizer,
        groups=[{**kwargs, "params": MATRICES}],
        steps=steps,
        frozen=tuple(name for name in problem.params if name not in MATRICES),
    )


def bends(optimizer: str, kwargs: dict) -> dict[str, str]:
    """Settings by place whose value is one where the update has a kink."""
    # the first update of a vector has a root mean square of exactly 1
    d = {"0/d": "kink"} if optimizer == "Adafactor" and "d" not in kwargs else {}
    return d | {"0/eps": "forward"} if kwargs.get("eps") == (0.0, 0.0) else d


@contextmanager
def in_float64() -> Iterator[None]:
    """torch's Muon with the cast to bfloat16 taken out of its own source."""
    source = inspect.getsource(_muon._zeropower_via_newtonschulz)
    assert source.count("grad.bfloat16()") == 1
    scope = dict(vars(_muon))
    exec(source.replace("grad.bfloat16()", "grad.clone()"), scope)
    exact = scope["_zeropower_via_newtonschulz"]
    with mock.patch.object(_muon, "_zeropower_via_newtonschulz", exact):
        yield


def axes() -> Problem:
    """Parameters with no, one and three axes, coupled."""
    draw = np.random.default_rng(5)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.as_tensor(draw.standard_normal(shape))

    params = {"s": tensor(), "k": tensor(2, 3, 4)}
    data = {"c": tensor(2, 3, 4) ** 2 + 0.3, "m": tensor(2, 3, 4)}

    def inner(p: dict[str, torch.Tensor]) -> torch.Tensor:
        apart = p["k"] - p["s"] * data["m"]
        return (data["c"] * apart**2).mean() + 0.1 * (p["s"] - 2) ** 2

    def outer(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((p["k"] - 0.5) ** 2).mean() + (p["s"] + 1) ** 2

    return Problem(
        name="axes",
        params=params,
        inner=inner,
        outer=outer,
        data=data,
        doc=(
            "inner mean c (k - s m)^2 + (s - 2)^2 / 10, outer mean (k - 1/2)^2 + "
            "(s + 1)^2"
        ),
    )


def zero_matrix() -> Problem:
    """A quadratic of a matrix that is 0 and stays there."""
    c = torch.tensor([[2.0, 0.7, 0.3], [0.4, 1.1, 1.6]])

    def outer(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((p["w"] - c) ** 2).mean()

    return Problem(
        name="zero_matrix",
        params={"w": torch.zeros(2, 3)},
        inner=lambda p: 0.5 * (c * p["w"] ** 2).sum(),
        outer=outer,
        data={"c": c},
        doc="inner sum c w^2 / 2, outer mean (w - c)^2: w and its gradient are 0",
    )

"""Whole runs of torch.optim: parameters at every step, losses and the final state."""

from typing import Any

import torch

from .configurations import CONFIGURATIONS, GROUPS, kwargs_on
from .hypergradients import described
from .problems import Params, mlp, rosenbrock
from .runs import Run, real

STEPS = 12


def record() -> list[dict[str, Any]]:
    """Every configuration on both problems, and the parameter groups on the network."""
    rows = []
    for problem in (mlp(), rosenbrock()):
        for name, (optimizer, *_) in CONFIGURATIONS.items():
            groups = [kwargs_on(name, problem.name)]
            run = Run(problem=problem, optimizer=optimizer, groups=groups, steps=STEPS)
            rows.append(trajectory(f"{name}/{problem.name}", run))
    for name, (optimizer, groups) in GROUPS.items():
        run = Run(problem=mlp(), optimizer=optimizer, groups=groups, steps=STEPS)
        rows.append(trajectory(f"groups_{name}/mlp", run))
    return rows


def trajectory(name: str, run: Run) -> dict[str, Any]:
    """The row of one run."""
    found = real(run, run.settings(), run.problem.params)
    row = {
        "name": name,
        **described(run),
        "params": stacked(found["params"]),
        "losses": torch.tensor(found["losses"]),
        "outer": found["outer"],
        "state": {n: plain(state) for n, state in found["state"].items()},
    }
    return row | ({"ax": stacked(found["ax"])} if found["ax"] else {})


def stacked(path: list[Params]) -> Params:
    """A list of parameters as one array each, time first."""
    return {name: torch.stack([p[name] for p in path]) for name in path[0]}


def plain(state: dict) -> dict:
    """torch's state of one parameter without what it leaves empty."""
    return {key: value for key, value in state.items() if value is not None}

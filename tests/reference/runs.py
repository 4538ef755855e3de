"""Training runs: by torch.optim itself, and by differentiable updates equal to it."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from .problems import Params, Problem
from .updates import SETTINGS, UPDATES, safe_sqrt

MACHINE_EPSILON = torch.finfo(torch.float64).eps
"""What None stands for in Adafactor's `eps`."""

Settings = dict[str, Any]
"""Numeric settings by place: `0/lr` of group 0, `step 2/lr` from step 2 on."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training run does besides its numeric settings and initial parameters."""

    problem: Problem
    optimizer: str
    groups: list[dict] = field(default_factory=lambda: [{}])
    """Arguments of each group; with more than one, `params` lists its names."""
    steps: int
    per_step: list[dict[str, float]] | None = None
    """Overrides of each step, on every group, for this step alone."""
    clip: float | None = None
    frozen: tuple[str, ...] = ()
    start: dict[str, dict] | None = None
    """torch's state of each parameter to branch from."""
    average: bool = False
    """Judge `ax` (ASGD's average) rather than the parameters."""

    @property
    def names(self) -> list[str]:
        return list(self.problem.params)

    def params_of(self, group: int) -> Iterable[str]:
        return self.groups[group].get("params", self.names)

    def group_of(self, name: str) -> int:
        return next(g for g in range(len(self.groups)) if name in self.params_of(g))

    def names_of_settings(self) -> list[str]:
        return SETTINGS[self.optimizer].split()

    def settings(self) -> Settings:
        """Every numeric setting, the defaults included, from torch itself."""
        found: Settings = {}
        for g, group in enumerate(self.optimizer_of(self.problem.params).param_groups):
            for name in self.names_of_settings():
                value = group[name]
                pair = isinstance(value, tuple)
                found[f"{g}/{name}"] = (
                    tuple(MACHINE_EPSILON if v is None else v for v in value)
                    if pair
                    else float(value)
                )
        for t, override in enumerate(self.per_step or []):
            found |= {f"step {t}/{name}": value for name, value in override.items()}
        return found

    def optimizer_of(self, params: Params) -> torch.optim.Optimizer:
        """torch's optimizer of the parameters, before any step."""
        groups = []
        for g, group in enumerate(self.groups):
            chosen = [params[name] for name in self.params_of(g)]
            groups.append({**group, "params": chosen})
        return getattr(torch.optim, self.optimizer)(groups)


def real(run: Run, settings: Settings, initial: Params) -> dict[str, Any]:
    """The run by torch.optim."""
    params = {
        name: value.detach().clone().requires_grad_(name not in run.frozen)
        for name, value in initial.items()
    }
    optimizer = run.optimizer_of(params)
    for g, group in enumerate(optimizer.param_groups):
        # after construction, where torch checks no range
        group.update({n: settings[f"{g}/{n}"] for n in run.names_of_settings()})
        for p in group["params"] if run.optimizer == "Adagrad" else ():
            optimizer.state[p]["sum"].fill_(group["initial_accumulator_value"])
    for name, state in (run.start or {}).items():
        optimizer.state[params[name]] = copy.deepcopy(state)

    path, losses, averages = [_detached(params)], [], []
    for t in range(run.steps):
        kept = [dict(group) for group in optimizer.param_groups]
        for name in run.per_step[t] if run.per_step else ():
            for group in optimizer.param_groups:
                group[name] = settings[f"step {t}/{name}"]
        optimizer.zero_grad()
        loss = run.problem.inner(params)
        loss.backward()
        if run.clip is not None:
            clip_grad_norm_(params.values(), run.clip)
        optimizer.step()
        for group, before in zip(optimizer.param_groups, kept, strict=True):
            group.update(before)
        losses.append(loss.item())
        path.append(_detached(params))
        averages.append({n: _average(optimizer, p) for n, p in params.items()})
    with torch.no_grad():
        losses.append(run.problem.inner(params).item())
        judged = averages[-1] if run.average else params
        outer = run.problem.outer(judged).item()
    state = {name: dict(optimizer.state[p]) for name, p in params.items()}
    return {
        "params": path,
        "losses": losses,
        "outer": outer,
        "state": copy.deepcopy(state),
        "ax": averages if run.optimizer == "ASGD" else None,
    }


def functional(
    run: Run, settings: Settings, initial: Params
) -> tuple[Params, torch.Tensor]:
    """Final parameters and outer loss of the same run, differentiable in everything."""
    params = dict(initial)
    states = {name: _constants((run.start or {}).get(name, {})) for name in run.names}
    for t in range(run.steps):
        if not params[run.names[0]].requires_grad:
            params = {n: p.clone().requires_grad_() for n, p in params.items()}
        trained = [name for name in run.names if name not in run.frozen]
        grads = torch.autograd.grad(
            run.problem.inner(params),
            [params[name] for name in trained],
            create_graph=True,
            allow_unused=True,
        )
        grad_of = dict(zip(trained, grads, strict=True))
        if run.clip is not None:
            grad_of = _clipped(grad_of, run.clip)
        for name in trained:
            grad, g = grad_of[name], run.group_of(name)
            if grad is None:  # torch skips what the loss does not use
                continue
            hp = {n: settings[f"{g}/{n}"] for n in run.names_of_settings()}
            for n in run.per_step[t] if run.per_step else ():
                hp[n] = settings[f"step {t}/{n}"]
            update = UPDATES[run.optimizer]
            params[name] = update(grad, params[name], states[name], hp, run.groups[g])
    judged = {n: s["ax"] for n, s in states.items()} if run.average else params
    return params, run.problem.outer(judged)


def unclipped_norms(run: Run) -> np.ndarray:
    """Norm of the gradient at each step, before clipping."""
    norms = []
    for params in real(run, run.settings(), run.problem.params)["params"][:-1]:
        leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
        run.problem.inner(leaves).backward()
        total = sum((p.grad**2).sum() for p in leaves.values() if p.grad is not None)
        norms.append(float(total) ** 0.5)
    return np.array(norms)


def _detached(params: Params) -> Params:
    return {name: value.detach().clone() for name, value in params.items()}


def _average(optimizer: torch.optim.Optimizer, p: torch.Tensor) -> Any:
    average = optimizer.state[p].get("ax")
    return None if average is None else average.clone()


def _constants(state: dict) -> dict:
    made = {k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)}
    return {**made, "step": int(made["step"])} if "step" in made else made


def _clipped(grads: dict[str, Any], max_norm: float) -> dict[str, Any]:
    present = [g for g in grads.values() if g is not None]
    norm = safe_sqrt(torch.stack([(g * g).sum() for g in present]).sum())
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    return {n: None if g is None else g * factor for n, g in grads.items()}

"""Derivatives of an outer loss through whole training runs, checked one by one."""

from typing import Any

import numpy as np
import torch

from .configurations import CONFIGURATIONS, kwargs_on
from .differences import check
from .higher_side import compared
from .problems import Params, mlp, rosenbrock
from .runs import Run, Settings, functional, real

FORWARD = 1e-12
"""Largest relative distance of the differentiable run from torch.optim's."""


def record() -> list[dict[str, Any]]:
    """Every configuration after 1, 5 and 12 steps on both problems."""
    rows = []
    for problem in (mlp(), rosenbrock()):
        for name, (optimizer, *_) in CONFIGURATIONS.items():
            kwargs = kwargs_on(name, problem.name)
            for steps in (1, 5, 12):
                run = Run(
                    problem=problem, optimizer=optimizer, groups=[kwargs], steps=steps
                )
                row = hypergradient(f"{name}/{problem.name}/T{steps}", run)
                rows.append(row | {"higher": compared(run, row)})
    return rows


def hypergradient(
    name: str,
    run: Run,
    *,
    kinds: dict[str, str] | None = None,
    skip: tuple[str, ...] = (),
    entry_by_entry: bool = False,
) -> dict[str, Any]:
    """The row of one run: its outer loss, and the derivatives of it.

    Args:
        name: Of the row, and in the refusal.
        run: What is run.
        kinds: How settings by place are differenced where `central` would cross a kink.
        skip: Settings by place without a derivative; recorded as None.
        entry_by_entry: Difference every initial parameter from one side, instead of
            random directions from both.
    """
    settings, params = run.settings(), run.problem.params
    exact = real(run, settings, params)
    final, outer, d_settings, d_params = derivatives(run, settings, params)
    for leaf, value in final.items():
        apart = (value - exact["params"][-1][leaf]).abs().max()
        largest = max(p.abs().max() for p in exact["params"][-1].values())
        assert apart <= FORWARD * largest, f"{name}: forward differs at {leaf}: {apart}"

    for place, value in settings.items():
        for i in range(np.size(value)):
            if place in skip:
                continue

            def moved(h: float, place: str = place, i: int = i) -> float:
                changed = {**settings, place: _added(settings[place], i, h)}
                return real(run, changed, params)["outer"]

            check(
                f"{name}: {place}[{i}]",
                float(np.ravel(d_settings[place])[i]),
                moved,
                size=_size(place, np.ravel(value)[i]),
                kind=_kind(run, place, value, kinds),
            )
    for d in _directions(params, entry_by_entry):

        def shifted(h: float, d: Params = d) -> float:
            changed = {n: p + h * d[n] for n, p in params.items()}
            return real(run, settings, changed)["outer"]

        slope = sum(float((d_params[n] * d[n]).sum()) for n in params)
        side = "forward" if entry_by_entry else "central"
        check(f"{name}: initial parameters", slope, shifted, size=0.1, kind=side)

    kept = {k: None if k in skip else v for k, v in d_settings.items()}
    return {"name": name, **described(run), **grouped(run, settings, "settings")} | {
        "outer": outer,
        "final": final,
        **grouped(run, kept, "d_settings"),
        "d_params": d_params,
    }


def derivatives(
    run: Run, settings: Settings, params: Params
) -> tuple[Params, float, Settings, Params]:
    """Final parameters, outer loss, its derivatives in settings and in parameters."""
    hp = {k: torch.tensor(v, dtype=torch.float64) for k, v in settings.items()}
    hp = {k: v.requires_grad_() for k, v in hp.items()}
    start = {n: p.clone().requires_grad_() for n, p in params.items()}
    final, outer = functional(run, hp, start)
    inputs = [*hp.values(), *start.values()]
    grads = torch.autograd.grad(outer, inputs, allow_unused=True)
    values = [
        torch.zeros_like(x) if g is None else g
        for x, g in zip(inputs, grads, strict=True)
    ]
    d_settings = {k: g.tolist() for k, g in zip(hp, values, strict=False)}
    d_params = dict(zip(start, values[len(hp) :], strict=True))
    detached = {n: p.detach() for n, p in final.items()}
    return detached, outer.item(), d_settings, d_params


def described(run: Run) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    head: dict[str, Any] = {
        "problem": run.problem.name,
        "optimizer": run.optimizer,
        "steps": run.steps,
    }
    if len(run.groups) > 1:
        return head | {"groups": run.groups}
    return head | {"kwargs": run.groups[0]}


def grouped(run: Run, values: Settings, key: str) -> dict[str, Any]:
    """Values by place as a dict of the only group, or a list of dicts of the groups.

    Those of single steps are a list of dicts under the key with `_per_step`.
    """

    def of(prefix: str) -> dict[str, Any]:
        start = f"{prefix}/"
        return {k[len(start) :]: v for k, v in values.items() if k.startswith(start)}

    groups = [of(str(g)) for g in range(len(run.groups))]
    made: dict[str, Any] = {key: groups[0] if len(groups) == 1 else groups}
    if run.per_step:
        made[f"{key}_per_step"] = [of(f"step {t}") for t in range(run.steps)]
    return made


def _kind(run: Run, place: str, value: Any, kinds: dict[str, str] | None) -> str:
    # torch drops a momentum below 0, and a sum below 0 has no root
    one_sided = {("RMSprop", "momentum"), ("Adagrad", "initial_accumulator_value")}
    at_edge = (run.optimizer, place.split("/")[1]) in one_sided and value == 0
    return (kinds or {}).get(place, "forward" if at_edge else "central")


def _size(place: str, value: float) -> float:
    # decays have to stay below 1
    decays = ("betas", "rho", "momentum", "alpha")
    if place.endswith(decays) and 0.5 < value < 1:
        return 0.4 * (1 - value)
    return 0.1


def _added(value: Any, i: int, h: float) -> Any:
    if np.ndim(value) == 0:
        return value + h
    return tuple(v + h * (j == i) for j, v in enumerate(value))


def _directions(params: Params, entry_by_entry: bool) -> list[Params]:
    if entry_by_entry:
        found = []
        for name, p in params.items():
            for i in range(p.numel()):
                one = {n: torch.zeros_like(q) for n, q in params.items()}
                one[name].view(-1)[i] = 1.0
                found.append(one)
        return found
    draw = np.random.default_rng(7)
    return [
        {n: torch.as_tensor(draw.standard_normal(p.shape)) for n, p in params.items()}
        for _ in range(3)
    ]

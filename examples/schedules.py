"""The schedules of `torch.optim.lr_scheduler`, as functions of the step.

Each is evaluated at 100 steps at once and drawn. At step 50 expect, of 0.1, a rate of

    step_lr 0.025, exponential_lr 0.0218, cosine_annealing_lr 0, sequential_lr 0.0401

    python examples/schedules.py
"""

import argparse
import pathlib

import jax.numpy as jnp

from jmeta import schedules


def all_schedules():
    warm_up = schedules.linear_lr(0.1, start_factor=0.1, total_iters=20)
    decay = schedules.exponential_lr(0.1, gamma=0.97)
    restarts = schedules.cosine_annealing_warm_restarts(0.1, T_0=15, T_mult=2)
    return {
        "step_lr": schedules.step_lr(0.1, 25, gamma=0.5),
        "multi_step_lr": schedules.multi_step_lr(0.1, [20, 60, 80], gamma=0.5),
        "constant_lr": schedules.constant_lr(0.1, factor=0.5, total_iters=40),
        "linear_lr": schedules.linear_lr(0.1, start_factor=0.2, total_iters=60),
        "exponential_lr": decay,
        "polynomial_lr": schedules.polynomial_lr(0.1, total_iters=80, power=2.0),
        "lambda_lr": schedules.lambda_lr(0.1, lambda step: 1 / (1 + step / 20)),
        "cosine_annealing_lr": schedules.cosine_annealing_lr(0.1, T_max=50),
        "cosine_…_warm_restarts": restarts,
        "one_cycle_lr": schedules.one_cycle_lr(0.1, total_steps=100),
        "cyclic_lr": schedules.cyclic_lr(0.02, 0.1, 12, mode="triangular2"),
        "sequential_lr": schedules.sequential_lr([warm_up, decay], [20]),
    }


def main(argv=None):
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default="out/schedules.png")
    args = parser.parse_args(argv)
    steps = jnp.arange(100)
    rates = {name: lr(steps) for name, lr in all_schedules().items()}
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    grid = figure.subplots(-(-len(rates) // 4), 4, sharex=True, sharey=True)
    for axes, (name, rate) in zip(grid.flat, rates.items(), strict=True):
        print(f"{name} {rate[50]:.3g}")
        axes.plot(steps, rate, "k-")
        axes.set_title(name, fontsize=9)
        axes.set(xlabel="step", ylabel="lr")
        axes.label_outer()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=80)
    print(f"picture: {args.out}")
    return rates


if __name__ == "__main__":
    main()

"""How long does one meta-gradient of MAML on sinusoids take?

25 tasks by vmap, 5 inner steps of SGD, a 1-40-40-1 ReLU network, 10 points to adapt to
and 10 to judge on, as in Finn et al. (2017). Small matrices: what is measured is the
overhead of a framework, which is what most meta-learning research pays for.
"""

import sys
from functools import partial

import numpy as np
from _harness import compiled, measure, options
from _peers import higher, mlp_module, torch_func, torchopt
from _problem import Problem, hypergradient, mlp, mlp_apply
from _report import Claim, bars, report, times_faster

import jmeta


def problem(tasks: int, steps: int) -> Problem:
    rng = np.random.default_rng(0)
    amplitude = rng.uniform(0.1, 5.0, (tasks, 1, 1))
    phase = rng.uniform(0, np.pi, (tasks, 1, 1))

    def points():
        x = rng.uniform(-5, 5, (tasks, 10, 1))
        y = amplitude * np.sin(x - phase)
        return x.astype(np.float32), y.astype(np.float32)

    params = mlp(1, 1, 40, 40, 1)
    return Problem(params, points(), points(), classes=False, steps=steps, lr=0.01)


def main(argv=None):
    args = options(__doc__, argv)
    sine = problem(*((3, 2) if args.quick else (25, 5)))

    def by_jmeta(adjoint):
        return compiled(*hypergradient(mlp_apply, sine, adjoint))

    # five steps of a tiny network: nothing is worth recomputing, a loop costs
    small = jmeta.Unroll(checkpoint=None, unroll=sine.steps)
    makers = {
        "jmeta": partial(by_jmeta, small),
        "jmeta, default Unroll()": partial(by_jmeta, jmeta.Unroll()),
    }
    if not args.no_peers:
        makers |= {
            "torch.func + vmap": partial(torch_func, mlp_module, sine),
            "TorchOpt MetaSGD": partial(torchopt, mlp_module, sine),
            "higher": partial(higher, mlp_module, sine),
        }
    rows = measure("", makers, repeats=args.repeats, tolerance=1e-3)
    claims = []
    for name, bound in (
        ("higher", 50),
        ("TorchOpt MetaSGD", 30),
        ("torch.func + vmap", 5),
    ):
        ratio = times_faster(rows, "jmeta", name)
        if ratio is not None and not args.quick:
            claims.append(Claim(f"times as fast as {name}", ratio, bound))
    report("maml_sinusoid", args, rows, claims)
    bars(args.out / "maml_sinusoid.png", "One meta-gradient, sinusoids", rows)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])

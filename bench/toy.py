"""What does a framework cost where there is nothing to compute?

The well-known toy run of `higher`: one weight learns y = 3.5 x by 5 steps of SGD with
momentum; hypergradient of learning rate, momentum and first weight.
"""

import sys
from functools import partial

import numpy as np
from _harness import compiled, measure, options
from _peers import higher, mlp_module, torch_func, torchopt
from _problem import Problem, hypergradient
from _report import bars, report

import jmeta


def problem() -> Problem:
    x = np.random.RandomState(1).uniform(size=(1, 100, 1)).astype(np.float32)
    # (w - 3.5)^2 is the mean square at x = 1
    one = np.ones((1, 1, 1), np.float32)
    return Problem(
        [{"weight": np.full((1, 1), -0.9914729595184326, np.float32)}],
        (x, 3.5 * x),
        (one, 3.5 * one),
        classes=False,
        steps=5,
        lr=0.3,
        momentum=0.5,
        wrt=("params", "lr", "momentum"),
    )


def linear(params, x):
    return x @ params[0]["weight"]


def main(argv=None):
    args = options(__doc__, argv)
    toy = problem()
    adjoints = {
        "jmeta": jmeta.Unroll(),
        "jmeta, nothing recomputed": jmeta.Unroll(mixed=False, checkpoint=None),
        "jmeta, ForwardMode": jmeta.ForwardMode(),
    }
    makers = {
        name: lambda adjoint=adjoint: compiled(*hypergradient(linear, toy, adjoint, 1))
        for name, adjoint in adjoints.items()
    }
    if not args.no_peers:
        makers |= {
            "torch.func": partial(torch_func, mlp_module, toy, vmap=False),
            "TorchOpt MetaSGD": partial(torchopt, mlp_module, toy),
            "higher": partial(higher, mlp_module, toy),
        }
    rows = measure("", makers, repeats=args.repeats, tolerance=1e-3)
    report("toy", args, rows, [])
    bars(args.out / "toy.png", "Hypergradient of the toy run", rows)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])

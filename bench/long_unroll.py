"""What does a hypergradient cost as the inner loop grows longer?

Learning rate, momentum and initial weights of a 64-128-128-10 network, batch 64, SGD
with momentum, through T steps, under each way to unroll; learning rate and momentum
alone in forward mode. `ratio` is to plain training for the same T, without derivative.
"""

import sys
from functools import partial

import numpy as np
from _harness import Row, compiled, measure, options
from _peers import higher, mlp_module, torch_func, torchopt
from _problem import Problem, hypergradient, mlp, mlp_apply, training
from _report import Claim, by_name, lines, report, times_faster

import jmeta

TRAINING, FORWARD, HIGHER = "plain training", "ForwardMode: lr, momentum", "higher"
UNROLLS = {
    "Unroll()": jmeta.Unroll(),
    "Unroll, nested": jmeta.Unroll(checkpoint="nested"),
    "Unroll, nothing recomputed": jmeta.Unroll(mixed=False, checkpoint=None),
}
MIDDLE = 400


def problem(steps: int, width: int, wrt: tuple[str, ...]) -> Problem:
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(64, 10))

    def points():
        x = rng.normal(size=(1, 64, 64))
        y = (x @ teacher + 4 * rng.normal(size=(1, 64, 10))).argmax(-1)
        return x.astype(np.float32), y.astype(np.int32)

    return Problem(
        mlp(1, 64, width, width, 10),
        points(),
        points(),
        classes=True,
        steps=steps,
        lr=0.01,
        momentum=0.5,
        wrt=wrt,
    )


def one_length(args, steps: int) -> list[Row]:
    width = 8 if args.quick else 128
    full = problem(steps, width, ("params", "lr", "momentum"))
    scalars = problem(steps, width, ("lr", "momentum"))
    makers = {TRAINING: lambda: compiled(*training(mlp_apply, full), gradients=False)}
    for name, adjoint in UNROLLS.items():
        if adjoint.checkpoint or steps <= 1024:
            makers[name] = lambda adjoint=adjoint: compiled(
                *hypergradient(mlp_apply, full, adjoint, 1)
            )
    makers[FORWARD] = lambda: compiled(
        *hypergradient(mlp_apply, scalars, jmeta.ForwardMode(), 1)
    )
    if steps <= MIDDLE and not args.no_peers:
        makers["torch.func"] = partial(torch_func, mlp_module, full, vmap=False)
        makers["TorchOpt MetaSGD"] = partial(torchopt, mlp_module, full)
        makers[HIGHER] = partial(higher, mlp_module, full)
    return measure(f"T={steps}", makers, repeats=args.repeats, tolerance=1e-2)


def claims(rows: dict[int, list[Row]]) -> list[Claim]:
    """What the middle length and the growth of memory show."""
    found = {steps: by_name(of_steps) for steps, of_steps in rows.items()}
    shown = []
    if MIDDLE in rows:
        at = f"at T={MIDDLE}"
        best = min(UNROLLS, key=lambda name: found[MIDDLE][name].seconds())
        over = 1 / times_faster(rows[MIDDLE], best, TRAINING)
        text = f"times the time of plain training, {best} {at}"
        shown.append(Claim(text, over, 5.5, at_most=True))
        ratio = times_faster(rows[MIDDLE], best, HIGHER)
        if ratio is not None:
            shown.append(Claim(f"times as fast as higher, {best} {at}", ratio, 2))
        nested = 1e-6 * found[MIDDLE]["Unroll, nested"].temp_bytes
        shown.append(
            Claim(f"MB with nested checkpoints {at}", nested, 20, at_most=True)
        )
    forward = 1e-6 * max(found[steps][FORWARD].temp_bytes for steps in rows)
    text = f"MB in forward mode, up to T={max(rows)}"
    shown.append(Claim(text, forward, 2, at_most=True))
    if {256, 4096} <= rows.keys():
        few, many = (found[T]["Unroll, nested"].temp_bytes for T in (256, 4096))
        text = "times the memory for 16 times the steps, nested"
        shown.append(Claim(text, many / few, 4.2, at_most=True))
    return shown


def main(argv=None):
    lengths = {"type": int, "nargs": "+", "default": [16, 64, 256, 400, 1024, 4096]}
    args = options(__doc__, argv, steps=lengths)
    rows = {
        steps: one_length(args, steps)
        for steps in ([4, 9] if args.quick else args.steps)
    }
    flat = [row for of_steps in rows.values() for row in of_steps]
    report("long_unroll", args, flat, [] if args.quick else claims(rows))
    panels = {"seconds": {}, "MB: temporary, torch: peak growth": {}}
    for steps, of_steps in rows.items():
        for row in by_name(of_steps).values():
            memory = row.temp_bytes or row.peak_bytes or 0
            for panel, value in zip(
                panels.values(), (row.seconds(), 1e-6 * memory), strict=True
            ):
                panel.setdefault(row.name, []).append((steps, value))
    title = "Hypergradient through T steps"
    lines(args.out / "long_unroll.png", title, "T", panels)
    return flat


if __name__ == "__main__":
    main(sys.argv[1:])

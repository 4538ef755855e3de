"""Does a script that is ported from `higher` give the same numbers, and how fast?

5-way 1-shot MAML on `jmeta.data.glyphs`: three blocks of 64 channels, five inner steps,
10 query images a letter, 4 meta-steps of 4 tasks. `port/higher_maml.py` and
`port/jmeta_maml.py` are the two scripts, whole. The losses are compared in float64: in
float32 Adam makes a step of each weight whose gradient is rounding alone.
"""

import contextlib
import sys
import warnings

import jax
import numpy as np
from _harness import Candidate, measure, options
from _report import Claim, bars, report, times_faster
from flax import nnx
from port import jmeta_maml

import jmeta

HIGHER, JMETA = "higher_maml.py", "jmeta_maml.py"


def batches(meta_steps: int, tasks: int, queries: int) -> list[jmeta.Task]:
    sample = jmeta.data.batch(jmeta.data.glyphs("train", queries=queries), tasks)
    keys = jax.random.split(jax.random.key(0), meta_steps)
    return jax.device_get([sample(key) for key in keys])


def in_jax(weights: dict[str, np.ndarray] | None, tasks: list[jmeta.Task]) -> Candidate:
    model = jmeta_maml.few_shot_net(5, nnx.Rngs(0))
    apply_fn, params = jmeta.make_functional(model, state=False)
    if weights is not None:
        names = {name.split(".")[0] for name in weights}
        names = {name: f"layers.{name}" for name in names}
        dtype = weights["0.weight"].dtype
        params = jax.tree.map(lambda x: x.astype(dtype), params)
        params = jmeta.from_torch.parameters(weights, params, names=names)
    init, step = jmeta_maml.make_step(apply_fn)
    log = lambda: jmeta_maml.meta_train(params, init, step, tasks)
    program = step.lower(params, init(params), tasks[0]).compile()
    return Candidate(log, temp_bytes=program.memory_analysis().temp_size_in_bytes)


def in_torch(net, tasks: list[jmeta.Task]) -> Candidate:
    import torch
    from port import higher_maml

    def tensors(images, labels):
        # channels come first in torch
        return torch.tensor(images).movedim(-1, 1), torch.tensor(labels).long()

    def split(batch):
        leaves, treedef = jax.tree.flatten(batch)
        each = [treedef.unflatten(rows) for rows in zip(*leaves, strict=True)]
        return [jmeta.Task(tensors(*t.support), tensors(*t.query)) for t in each]

    data = [split(batch) for batch in tasks]
    start = {name: x.clone() for name, x in net.state_dict().items()}

    def run():
        net.load_state_dict(start)
        return higher_maml.meta_train(net, data)

    return Candidate(run)


def distance(tasks: list[jmeta.Task]) -> float:
    """Largest relative difference of the scripts' losses, both in float64."""
    double = lambda x: x.astype(np.float64) if x.dtype.kind == "f" else x
    with jax.enable_x64(True), warnings.catch_warnings():
        # Flax keeps the running statistics, which are not used, in float32
        warnings.simplefilter("ignore", FutureWarning)
        tasks = jax.tree.map(double, tasks)
        net = torch_model().double()
        jax_log = np.array(in_jax(arrays(net), tasks).run())
        torch_log = np.array(in_torch(net, tasks).run())
    return float(np.max(abs(torch_log / jax_log - 1)[:, 0]))


def torch_model():
    import torch
    from port import higher_maml

    torch.manual_seed(0)
    return higher_maml.few_shot_net(5)


def arrays(net) -> dict[str, np.ndarray]:
    return {name: x.numpy().copy() for name, x in net.state_dict().items()}


def main(argv=None):
    args = options(__doc__, argv)
    tasks = batches(*((2, 2, 2) if args.quick else (4, 4, 10)))
    makers, weights, claims = {}, None, []
    if not args.no_peers:
        with contextlib.suppress(ImportError):
            net = torch_model()
            weights = arrays(net)
            off = distance(tasks)
            claims.append(Claim("relative difference of losses", off, 1e-6, True))
            makers[HIGHER] = lambda: in_torch(net, tasks)
    makers[JMETA] = lambda: in_jax(weights, tasks)
    rows = measure("", makers, repeats=args.repeats, tolerance=0.0)
    ratio = times_faster(rows, JMETA, HIGHER)
    if ratio is not None:
        claims.append(Claim("times as fast as what it was ported from", ratio, 1))
    report("higher_port", args, rows, claims)
    bars(args.out / "higher_port.png", "MAML, a few meta-steps of a few tasks", rows)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])

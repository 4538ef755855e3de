"""The same hypergradient by `higher`, TorchOpt and torch.func.

Torch is imported inside the functions: where it is missing they raise ImportError,
which the harness turns into a row that says so.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import Candidate
from _problem import Problem


def mlp_module(problem: Problem, activation: str = "ReLU") -> Any:
    """`_problem.mlp_apply` as a torch module, without the weights."""
    from torch import nn

    layers = []
    for layer in problem.params:
        linear = nn.Linear(*layer["weight"].shape, bias="bias" in layer)
        layers += [linear, getattr(nn, activation)()]
    return nn.Sequential(*layers[:-1])


def higher(module: Callable[[Problem], Any], problem: Problem) -> Candidate:
    """Unrolled by `higher.innerloop_ctx`, task after task."""
    import higher
    import torch

    net, meta, tasks, loss_fn = _setup(module, problem)
    settings = {k: [meta[k][0]] for k in meta if k != "params"}
    start = {k: float(v[0].detach()) for k, v in settings.items()}
    wrt = [leaf for name in problem.wrt for leaf in meta[name]]

    def run():
        total = None
        for (x, y), (query_x, query_y) in tasks:
            optimizer = torch.optim.SGD(net.parameters(), **start)
            with higher.innerloop_ctx(
                net, optimizer, copy_initial_weights=False, override=settings
            ) as (fmodel, diffopt):
                for _ in range(problem.steps):
                    diffopt.step(loss_fn(fmodel(x), y))
                loss = loss_fn(fmodel(query_x), query_y) / len(tasks)
                total = _add(total, torch.autograd.grad(loss, wrt))
        return total

    return _candidate(run, problem)


def torchopt(module: Callable[[Problem], Any], problem: Problem) -> Candidate:
    """Unrolled by `torchopt.MetaSGD`, task after task."""
    import torch
    import torchopt

    net, meta, tasks, loss_fn = _setup(module, problem)
    settings = {k: meta[k][0] for k in meta if k != "params"}
    optimizer = torchopt.MetaSGD(net, **settings)
    net_start = torchopt.extract_state_dict(net, by="reference")
    opt_start = torchopt.extract_state_dict(optimizer, by="reference")
    wrt = [leaf for name in problem.wrt for leaf in meta[name]]

    def run():
        total = None
        for (x, y), (query_x, query_y) in tasks:
            for _ in range(problem.steps):
                optimizer.step(loss_fn(net(x), y))
            loss = loss_fn(net(query_x), query_y) / len(tasks)
            total = _add(total, torch.autograd.grad(loss, wrt))
            torchopt.recover_state_dict(net, net_start)
            torchopt.recover_state_dict(optimizer, opt_start)
        return total

    return _candidate(run, problem)


def torch_func(
    module: Callable[[Problem], Any], problem: Problem, *, vmap: bool = True
) -> Candidate:
    """Written by hand with `torch.func`, tasks by `vmap` or one after another."""
    import torch
    from torch.func import functional_call, grad

    net, start, tasks, loss_fn = _setup(module, problem)
    names = [name for name, _ in net.named_parameters()]
    meta = {name: [leaf.detach() for leaf in leaves] for name, leaves in start.items()}
    wrt = {name: meta[name] for name in problem.wrt}

    def objective(params, x, y):
        full = dict(zip(names, params, strict=True))
        return loss_fn(functional_call(net, full, (x,)), y)

    def task_loss(wrt, x, y, query_x, query_y):
        full = {**meta, **wrt}
        params, buffers = full["params"], None
        for _ in range(problem.steps):
            step = grads = grad(objective)(params, x, y)
            if "momentum" in full:
                momentum = full["momentum"][0]
                step = grads
                if buffers is not None:
                    pairs = zip(buffers, grads, strict=True)
                    step = [momentum * b + g for b, g in pairs]
                buffers = step
            pairs = zip(params, step, strict=True)
            params = [p - full["lr"][0] * d for p, d in pairs]
        return objective(params, query_x, query_y)

    def all_tasks(wrt, *data):
        return torch.vmap(task_loss, (None, 0, 0, 0, 0))(wrt, *data).mean()

    def flat(gradients):
        return [leaf for name in problem.wrt for leaf in gradients[name]]

    if vmap:
        parts = zip(*[(*s, *q) for s, q in tasks], strict=True)
        data = [torch.stack(part) for part in parts]
        return _candidate(lambda: flat(grad(all_tasks)(wrt, *data)), problem)

    def run():
        total = None
        for support, query in tasks:
            part = flat(grad(task_loss)(wrt, *support, *query))
            total = _add(total, [leaf / len(tasks) for leaf in part])
        return total

    return _candidate(run, problem)


def _setup(module, problem):
    """The net with its weights, what to differentiate, the tasks and the loss."""
    import torch

    # JAX preallocates the memory of a GPU; run with XLA_PYTHON_CLIENT_PREALLOCATE=false
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = module(problem).to(device)
    for parameter, value in zip(
        net.parameters(), _ordered(problem.params), strict=True
    ):
        parameter.data = torch.tensor(_flip(value), device=device)
    scalar = lambda x: torch.tensor(x, device=device, requires_grad=True)
    meta = {"params": list(net.parameters()), "lr": [scalar(problem.lr)]}
    if problem.momentum is not None:
        meta["momentum"] = [scalar(problem.momentum)]

    def tensors(pair):
        x, y = pair
        x = np.moveaxis(x, -1, 2) if x.ndim == 5 else x
        y = y.astype(np.int64) if problem.classes else y
        return [
            (torch.tensor(np.ascontiguousarray(a), device=device), torch.tensor(b))
            for a, b in zip(x, y, strict=True)
        ]

    support, query = (
        [(x, y.to(device)) for x, y in tensors(pair)]
        for pair in (problem.support, problem.query)
    )
    functional = torch.nn.functional
    loss_fn = functional.cross_entropy if problem.classes else functional.mse_loss
    return net, meta, list(zip(support, query, strict=True)), loss_fn


def _candidate(run, problem):
    import torch

    def synchronized():
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result

    def read(leaves):
        it = iter([leaf.detach().cpu().numpy() for leaf in leaves])
        gradients = {}
        for name in problem.wrt:
            if name != "params":
                gradients[name] = next(it)
                continue
            count = len(_ordered(problem.params))
            flat = iter([_flip(x, back=True) for x in itertools.islice(it, count)])
            gradients[name] = [
                {key: next(flat) for key in layer} for layer in problem.params
            ]
        return gradients

    return Candidate(synchronized, read)


def _ordered(params):
    return [value for layer in params for value in layer.values()]


def _flip(x, back=False):
    """JAX's `[in, out]` and `[H, W, in, out]` to torch's `[out, in(, H, W)]`."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0) if back else (3, 2, 0, 1)}
    return np.ascontiguousarray(x.transpose(axes.get(x.ndim, range(x.ndim))))


def _add(total, part):
    return part if total is None else [a + b for a, b in zip(total, part, strict=True)]

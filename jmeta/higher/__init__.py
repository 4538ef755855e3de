"""The interface of `higher`, to port code: a thin layer on `inner_loop`.

It differs from higher in these points, since JAX has no tape and no hidden state:

- `diffopt.step` takes a function that computes the loss, not the loss.
- `jax.grad` of the function in which the context is opened replaces
  `loss.backward()`.
- Parameters are one pytree, not a list.
- An override given to one `step` holds for that step only.
- Calling `fmodel` outside a step changes nothing: neither the history of its
  parameters (with `params=`) nor its state.
"""

from jmeta.higher._diffopt import (
    DifferentiableOptimizer as DifferentiableOptimizer,
    create_diff_optim as create_diff_optim,
    get_diff_optim as get_diff_optim,
)
from jmeta.higher._fmodel import (
    FunctionalModel as FunctionalModel,
    monkeypatch as monkeypatch,
)
from jmeta.higher.context import innerloop_ctx as innerloop_ctx
from jmeta.higher.trainable import (
    apply_trainable_opt_params as apply_trainable_opt_params,
    get_trainable_opt_params as get_trainable_opt_params,
)

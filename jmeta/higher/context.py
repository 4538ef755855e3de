"""The context in which an inner loop is written step by step."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optax

from jmeta._core.typing import PyTree
from jmeta.higher._diffopt import DifferentiableOptimizer, get_diff_optim
from jmeta.higher._fmodel import FunctionalModel, monkeypatch


@contextlib.contextmanager
def innerloop_ctx(
    model: Any,
    tx: optax.GradientTransformation,
    *,
    opt_state: PyTree = None,
    device: Any = None,
    copy_initial_weights: bool = True,
    override: Mapping[str, Any] | None = None,
    track_higher_grads: bool = True,
    grad_callback: Callable[[PyTree], PyTree] | None = None,
) -> Iterator[tuple[FunctionalModel, DifferentiableOptimizer]]:
    """Write an inner loop step by step, as with higher.

    Open it inside the function that is differentiated, jitted or mapped: what goes in
    and what comes out are ordinary JAX values. Each step is traced by itself, so
    compile time grows with the number of steps; `diffopt.run` and `inner_loop` compile
    one loop instead.

    Args:
        model: A Flax nnx module, `(linen module, variables)`, `(apply_fn, params)` or
            `(apply_fn, params, state)`. It is left as it is.
        tx: `jmeta.optim.*` or any optax transform.
        opt_state: Optimizer state from which to go on. Default `tx.init(params)`.
        device: A `jax.Device` or sharding on which to put parameters, state and
            optimizer state.
        copy_initial_weights: Cut the initial parameters from the gradient. MAML needs
            False, since it differentiates by them.
        override: Settings by name, for all steps: a list of one value, or of one value
            for each parameter group, in the order in which the groups were given; or
            any value that `hyperparams` of `inner_loop` takes.
            Values may be traced, so that they can be differentiated. A pair such as
            `betas` is a tuple.
        track_higher_grads: With False, for evaluation, every step's results are cut
            from the gradient and only the newest parameters are kept. First-order
            MAML is `grad_callback=jax.lax.stop_gradient` instead.
        grad_callback: Function of the gradients that gives the gradients for the
            transform, such as clipping.

    Yields:
        The model with fast parameters and the optimizer that trains it.

    Raises:
        TypeError: An argument of the wrong kind, such as `model` and `tx` swapped.
        ValueError: `opt_state` or a list in `override` does not fit `tx`.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> tx = jmeta.optim.sgd(momentum=0.5)
        >>> def meta_loss(weight, lr):
        ...     model = lambda weight, x: weight * x, weight
        ...     options = {"copy_initial_weights": False, "override": {"lr": [lr]}}
        ...     with innerloop_ctx(model, tx, **options) as (fmodel, diffopt):
        ...         for x in (1.0, 2.0):
        ...             diffopt.step(lambda: (fmodel(x) - 3.0 * x) ** 2)
        ...         return (fmodel(1.0) - 3.0) ** 2
        >>> loss, grads = jax.value_and_grad(meta_loss, argnums=(0, 1))(0.0, 0.25)
        >>> float(loss), [float(g) for g in grads]
        (5.0625, [-3.375, 40.5])

    References:
        Grefenstette et al. (2019), Generalized inner loop meta-learning,
        arXiv:1910.01727.
    """
    fmodel = monkeypatch(
        model,
        device=device,
        copy_initial_weights=copy_initial_weights,
        track_higher_grads=track_higher_grads,
    )
    yield (
        fmodel,
        get_diff_optim(
            tx,
            fmodel.fast_params,
            fmodel,
            opt_state=opt_state,
            device=device,
            override=override,
            grad_callback=grad_callback,
            track_higher_grads=track_higher_grads,
        ),
    )

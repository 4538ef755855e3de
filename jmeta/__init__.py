"""Differentiable, compiled inner loops: the JAX port of PyTorch's `higher`."""

from jmeta import (
    adjoint as adjoint,
    algorithms as algorithms,
    data as data,
    from_torch as from_torch,
    optim as optim,
    plot as plot,
    schedules as schedules,
)
from jmeta._settings import PerLeaf as PerLeaf
from jmeta.adjoint import (
    FixedPoint as FixedPoint,
    ForwardMode as ForwardMode,
    Implicit as Implicit,
    Root as Root,
    StationaryPoint as StationaryPoint,
    Unroll as Unroll,
    proximal as proximal,
)
from jmeta.check import (
    HypergradCheck as HypergradCheck,
    Verdict as Verdict,
    check_hypergrad as check_hypergrad,
)
from jmeta.convolution import matmul_convs as matmul_convs
from jmeta.ema import (
    EMA as EMA,
    EMAState as EMAState,
    ema as ema,
    ema_params as ema_params,
    swap_params as swap_params,
)
from jmeta.explain import explain as explain
from jmeta.functional import make_functional as make_functional
from jmeta.higher import (
    apply_trainable_opt_params as apply_trainable_opt_params,
    create_diff_optim as create_diff_optim,
    get_diff_optim as get_diff_optim,
    get_trainable_opt_params as get_trainable_opt_params,
    innerloop_ctx as innerloop_ctx,
    monkeypatch as monkeypatch,
)
from jmeta.inner_loop import Run as Run, inner_loop as inner_loop
from jmeta.linear_solve import (
    CG as CG,
    GMRES as GMRES,
    Neumann as Neumann,
    NormalCG as NormalCG,
)
from jmeta.optim._per_step import PerStep as PerStep
from jmeta.plan import Plan as Plan, plan as plan
from jmeta.tasks import (
    Task as Task,
    task_map as task_map,
    task_value_and_grad as task_value_and_grad,
)
from jmeta.train import Fitted as Fitted, fit as fit
from jmeta.unused import unused_parameters as unused_parameters
from jmeta.zero_order import (
    Antithetic as Antithetic,
    ForwardDifference as ForwardDifference,
    Naive as Naive,
    es_value_and_grad as es_value_and_grad,
)

"""Differentiable, compiled inner loops: the JAX port of PyTorch's `higher`."""

from jmeta import (
    adjoint as adjoint,
    algorithms as algorithms,
    data as data,
    diagnose as diagnose,
    estimators as estimators,
    models as models,
    optim as optim,
    plot as plot,
    schedules as schedules,
)
from jmeta._core.settings import PerLeaf as PerLeaf, PerStep as PerStep
from jmeta._loop.inner_loop import Run as Run, inner_loop as inner_loop
from jmeta.adjoint import (
    FixedPoint as FixedPoint,
    ForwardMode as ForwardMode,
    Implicit as Implicit,
    Root as Root,
    StationaryPoint as StationaryPoint,
    Unroll as Unroll,
    proximal as proximal,
)
from jmeta.adjoint.solvers import (
    CG as CG,
    GMRES as GMRES,
    Neumann as Neumann,
    NormalCG as NormalCG,
)
from jmeta.convolution import matmul_convs as matmul_convs
from jmeta.diagnose import (
    HypergradCheck as HypergradCheck,
    Plan as Plan,
    Verdict as Verdict,
    check_hypergrad as check_hypergrad,
    explain as explain,
    plan as plan,
    unused_parameters as unused_parameters,
)
from jmeta.estimators import (
    Antithetic as Antithetic,
    ForwardDifference as ForwardDifference,
    Naive as Naive,
    es_value_and_grad as es_value_and_grad,
)
from jmeta.higher import (
    apply_trainable_opt_params as apply_trainable_opt_params,
    create_diff_optim as create_diff_optim,
    get_diff_optim as get_diff_optim,
    get_trainable_opt_params as get_trainable_opt_params,
    innerloop_ctx as innerloop_ctx,
    monkeypatch as monkeypatch,
)
from jmeta.models import (
    EMA as EMA,
    EMAState as EMAState,
    ema as ema,
    ema_params as ema_params,
    from_torch as from_torch,
    make_functional as make_functional,
    swap_params as swap_params,
)
from jmeta.tasks import (
    Task as Task,
    task_map as task_map,
    task_value_and_grad as task_value_and_grad,
)
from jmeta.train import Fitted as Fitted, Validation as Validation, fit as fit

"""torch's learning rate schedules as pure functions `step -> value`."""

from jmeta.schedules._base import Schedule as Schedule
from jmeta.schedules.cosine import (
    cosine_annealing_lr as cosine_annealing_lr,
    cosine_annealing_warm_restarts as cosine_annealing_warm_restarts,
)
from jmeta.schedules.cyclic import (
    cyclic_lr as cyclic_lr,
    cyclic_momentum as cyclic_momentum,
)
from jmeta.schedules.decay import (
    exponential_lr as exponential_lr,
    lambda_lr as lambda_lr,
    linear_lr as linear_lr,
    polynomial_lr as polynomial_lr,
)
from jmeta.schedules.one_cycle import (
    one_cycle_lr as one_cycle_lr,
    one_cycle_momentum as one_cycle_momentum,
)
from jmeta.schedules.plateau import (
    PlateauState as PlateauState,
    ReduceLROnPlateau as ReduceLROnPlateau,
    reduce_lr_on_plateau as reduce_lr_on_plateau,
)
from jmeta.schedules.sequential import sequential_lr as sequential_lr
from jmeta.schedules.staircase import (
    constant_lr as constant_lr,
    multi_step_lr as multi_step_lr,
    step_lr as step_lr,
)
from jmeta.schedules.warmup import warmup_cosine as warmup_cosine

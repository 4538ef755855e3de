"""Models as pure functions, averages of their parameters, and weights from torch."""

from jmeta.models import from_torch as from_torch
from jmeta.models._ema import (
    EMA as EMA,
    EMAState as EMAState,
    ema as ema,
    ema_params as ema_params,
    swap_params as swap_params,
)
from jmeta.models.functional import make_functional as make_functional

"""Models and their weights as pure functions and pytrees, also those of torch."""

from jmeta.models import from_torch as from_torch
from jmeta.models._ema import (
    EMA as EMA,
    EMAState as EMAState,
    ema as ema,
    ema_params as ema_params,
    swap_params as swap_params,
)
from jmeta.models.functional import make_functional as make_functional

"""Meta-training with checkpoints, records and a guard against NaN."""

from jmeta.train._arguments import Validation as Validation
from jmeta.train._fit import Fitted as Fitted, fit as fit

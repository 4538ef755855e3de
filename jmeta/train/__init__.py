"""Meta-training that can be left alone: resumable, guarded, logged."""

from jmeta.train._arguments import Validation as Validation
from jmeta.train._fit import Fitted as Fitted, fit as fit

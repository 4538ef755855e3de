"""Differentiable, compiled inner loops: the JAX port of PyTorch's `higher`."""

from jmeta import optim as optim, schedules as schedules
from jmeta._settings import PerLeaf as PerLeaf
from jmeta.functional import make_functional as make_functional

"""Differentiable, compiled inner loops: the JAX port of PyTorch's `higher`."""

from jmeta import optim as optim
from jmeta.optim import PerLeaf as PerLeaf

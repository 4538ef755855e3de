"""Weights and optimizer states of torch, in the trees that Flax and jmeta use.

torch itself is not needed: pass what `state_dict()` returned, with numpy arrays or with
CPU tensors in it.
"""

from jmeta.models.from_torch.modules import parameters as parameters, state as state
from jmeta.models.from_torch.optimizers import optimizer_state as optimizer_state

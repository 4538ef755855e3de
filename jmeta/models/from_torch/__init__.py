"""Convert torch's weights and optimizer states to the trees of Flax and jmeta.

Arguments are what torch's `state_dict()` returned, with numpy arrays or CPU tensors. No
installation of torch is needed.
"""

from jmeta.models.from_torch.modules import parameters as parameters, state as state
from jmeta.models.from_torch.optimizers import optimizer_state as optimizer_state

"""torch.optim's algorithms as optax transforms, differentiable in every setting."""

from jmeta.optim.adam import adam as adam
from jmeta.optim.adamw import adamw as adamw
from jmeta.optim.sgd import sgd as sgd

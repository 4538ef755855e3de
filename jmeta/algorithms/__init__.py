"""Meta-learning algorithms: each builds the loss of one task, a few lines on the loop.

Every builder gives a pure `task_loss(meta_params, task, key=None) -> (loss, aux)`, with
`aux` an `Adapted`. `task_value_and_grad` and `task_map` take such a loss. To evaluate
with another number of steps, build another loss with that number. `adapted` builds a
loss from any two objectives, which need no outputs and targets.
"""

from jmeta.algorithms._adapted import adapted as adapted
from jmeta.algorithms._anil import anil as anil
from jmeta.algorithms._base import Adapted as Adapted
from jmeta.algorithms._imaml import imaml as imaml
from jmeta.algorithms._maml import maml as maml
from jmeta.algorithms._maml_plus_plus import (
    MAMLPlusPlusParams as MAMLPlusPlusParams,
    maml_plus_plus as maml_plus_plus,
    maml_plus_plus_params as maml_plus_plus_params,
    msl_weights as msl_weights,
)
from jmeta.algorithms._meta_sgd import (
    MetaSGDParams as MetaSGDParams,
    meta_sgd as meta_sgd,
    meta_sgd_params as meta_sgd_params,
)
from jmeta.algorithms._reptile import reptile as reptile

"""Meta-learning algorithms: each builds the loss of one task, a few lines on the loop.

Every builder gives a pure `task_loss(meta_params, task, key=None) -> (loss, aux)`, with
`aux` an `Adapted`: for `task_value_and_grad`, for `task_map`, for any outer optimizer.
To evaluate with another number of steps, build with that number. `adapted` builds one
from any two objectives, without outputs and targets.
"""

from jmeta.algorithms._base import Adapted as Adapted
from jmeta.algorithms.adapted import adapted as adapted
from jmeta.algorithms.anil import anil as anil
from jmeta.algorithms.imaml import imaml as imaml
from jmeta.algorithms.maml import maml as maml
from jmeta.algorithms.maml_plus_plus import (
    MAMLPlusPlusParams as MAMLPlusPlusParams,
    maml_plus_plus as maml_plus_plus,
    maml_plus_plus_params as maml_plus_plus_params,
    msl_weights as msl_weights,
)
from jmeta.algorithms.meta_sgd import (
    MetaSGDParams as MetaSGDParams,
    meta_sgd as meta_sgd,
    meta_sgd_params as meta_sgd_params,
)
from jmeta.algorithms.reptile import reptile as reptile

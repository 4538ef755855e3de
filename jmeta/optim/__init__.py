"""torch.optim's algorithms as optax transforms, differentiable in every setting."""

from jmeta.optim.adadelta import adadelta as adadelta
from jmeta.optim.adafactor import adafactor as adafactor
from jmeta.optim.adagrad import adagrad as adagrad
from jmeta.optim.adam import adam as adam
from jmeta.optim.adamax import adamax as adamax
from jmeta.optim.adamw import adamw as adamw
from jmeta.optim.asgd import asgd as asgd
from jmeta.optim.finite import finite as finite
from jmeta.optim.lbfgs import lbfgs as lbfgs
from jmeta.optim.muon import muon as muon
from jmeta.optim.nadam import nadam as nadam
from jmeta.optim.param_groups import param_groups as param_groups
from jmeta.optim.radam import radam as radam
from jmeta.optim.rmsprop import rmsprop as rmsprop
from jmeta.optim.rprop import rprop as rprop
from jmeta.optim.sgd import sgd as sgd
from jmeta.optim.sparse_adam import sparse_adam as sparse_adam

"""torch.optim's algorithms as optax transforms, differentiable in every setting."""

from jmeta.optim._adadelta import adadelta as adadelta
from jmeta.optim._adafactor import adafactor as adafactor
from jmeta.optim._adagrad import adagrad as adagrad
from jmeta.optim._adam import adam as adam
from jmeta.optim._adamax import adamax as adamax
from jmeta.optim._adamw import adamw as adamw
from jmeta.optim._asgd import asgd as asgd
from jmeta.optim._finite.finite import finite as finite
from jmeta.optim._lbfgs import lbfgs as lbfgs
from jmeta.optim._muon import muon as muon
from jmeta.optim._nadam import nadam as nadam
from jmeta.optim._param_groups import param_groups as param_groups
from jmeta.optim._radam import radam as radam
from jmeta.optim._rmsprop import rmsprop as rmsprop
from jmeta.optim._rprop import rprop as rprop
from jmeta.optim._sgd import sgd as sgd
from jmeta.optim._sparse_adam import sparse_adam as sparse_adam

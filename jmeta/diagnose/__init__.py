"""What a hypergradient costs, whether it is right, and what it depends on."""

from jmeta.diagnose._check_hypergrad import (
    HypergradCheck as HypergradCheck,
    check_hypergrad as check_hypergrad,
)
from jmeta.diagnose._explain import explain as explain
from jmeta.diagnose._plan import Plan as Plan, plan as plan
from jmeta.diagnose._verdict import Verdict as Verdict
from jmeta.diagnose.unused import unused_parameters as unused_parameters

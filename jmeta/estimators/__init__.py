"""Gradients of a loss from its values alone, where it has no useful derivative."""

from jmeta.estimators.evolution_strategies import (
    Antithetic as Antithetic,
    ForwardDifference as ForwardDifference,
    Naive as Naive,
    es_value_and_grad as es_value_and_grad,
)

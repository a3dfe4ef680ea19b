"""Pruning for Keras 3: networks that get smaller and faster, for any functional or Sequential model."""

from pruning.channels import Channels
from pruning.errors import PruningError
from pruning.flops import Count, compression_ratio, count, count_layers, theoretical_speedup
from pruning.graph import Graph
from pruning.registry import Call, Flow, Weight, rule
from pruning.shrink import masked, shrink

__all__ = [
    "Call",
    "Channels",
    "Count",
    "Flow",
    "Graph",
    "PruningError",
    "Weight",
    "compression_ratio",
    "count",
    "count_layers",
    "masked",
    "rule",
    "shrink",
    "theoretical_speedup",
]

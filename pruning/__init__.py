"""Pruning for Keras 3: networks that get smaller and faster, for any functional or Sequential model."""

from pruning.callbacks import PruningSummaries, UpdatePruningStep
from pruning.channels import Channels
from pruning.errors import PruningError, PruningWarning
from pruning.flops import Count, compression_ratio, count, count_layers, theoretical_speedup
from pruning.graph import Graph
from pruning.loss_based import Search, loss_ordering
from pruning.magnitude import Round, Thinned, iterative_magnitude
from pruning.masks import apply_masks, blocks, held_at_zero, magnitude_masks, n_of_m
from pruning.ordering import Ordering, Removal
from pruning.prune_by_loss import Pruned, prune_by_loss
from pruning.registry import Call, Flow, Weight, rule
from pruning.report import Report, Row, latencies, report
from pruning.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule
from pruning.shrink import masked, shrink
from pruning.structured import select_channels
from pruning.target import Target
from pruning.wrapping import PrunableLayer, PruneLowMagnitude, prune_low_magnitude, prune_scope, strip_pruning
from pruning.zeros import without_zeros

__all__ = [
    "Call",
    "Channels",
    "ConstantSparsity",
    "Count",
    "Flow",
    "Graph",
    "Ordering",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneLowMagnitude",
    "Pruned",
    "PruningError",
    "PruningSchedule",
    "PruningSummaries",
    "PruningWarning",
    "Removal",
    "Report",
    "Round",
    "Row",
    "Search",
    "Target",
    "Thinned",
    "UpdatePruningStep",
    "Weight",
    "apply_masks",
    "blocks",
    "compression_ratio",
    "count",
    "count_layers",
    "held_at_zero",
    "iterative_magnitude",
    "latencies",
    "loss_ordering",
    "magnitude_masks",
    "masked",
    "n_of_m",
    "prune_by_loss",
    "prune_low_magnitude",
    "prune_scope",
    "report",
    "rule",
    "select_channels",
    "shrink",
    "strip_pruning",
    "theoretical_speedup",
    "without_zeros",
]

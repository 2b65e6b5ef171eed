"""The plan stage: a model's shapes and a device profile to a `Plan`."""

from edgec.plan.bits import quantizable
from edgec.plan.planner import Target, make_plan

__all__ = ["Target", "make_plan", "quantizable"]

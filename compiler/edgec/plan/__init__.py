"""The plan stage: a model's shapes and a device profile to a `Plan`."""

from edgec.plan.planner import make_plan

__all__ = ["make_plan"]

"""The plan stage: a model's shapes and a device profile to a `Plan`."""

from edgec.plan.allocate import NARROW, allocate, at_probe
from edgec.plan.bits import quantizable
from edgec.plan.memory import weight_bytes
from edgec.plan.planner import Target, make_plan, to_measure
from edgec.plan.smallest import smallest
from edgec.plan.speed import foresee, foreseen_steps

__all__ = [
    "NARROW",
    "Target",
    "allocate",
    "at_probe",
    "foresee",
    "foreseen_steps",
    "make_plan",
    "quantizable",
    "smallest",
    "to_measure",
    "weight_bytes",
]

"""Slimming: what is taken away from a model so that it fits into a number of bytes, and at what loss."""

from edgec.slim.mix import Slimmed
from edgec.slim.stage import slim
from edgec.slim.texts import TRAINING_TOKENS, own_texts, parted, read_texts

__all__ = ["TRAINING_TOKENS", "Slimmed", "own_texts", "parted", "read_texts", "slim"]

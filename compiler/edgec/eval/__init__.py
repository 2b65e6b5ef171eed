"""Measuring a compiled model against its float reference, on data that the user gives."""

from edgec.compress.ranks import spearman
from edgec.eval.language import Comparison, Perplexity, compare, perplexity
from edgec.eval.reference import ReferenceDecoder, ReferenceGraph, open_reference
from edgec.eval.similarity import read_pairs, sts_spearman
from edgec.eval.vision import detection_agreement, read_index, top1
from edgec.eval.vocabulary import RestrictedDecoder

__all__ = [
    "Comparison",
    "Perplexity",
    "ReferenceDecoder",
    "ReferenceGraph",
    "RestrictedDecoder",
    "compare",
    "detection_agreement",
    "open_reference",
    "perplexity",
    "read_index",
    "read_pairs",
    "spearman",
    "sts_spearman",
    "top1",
]

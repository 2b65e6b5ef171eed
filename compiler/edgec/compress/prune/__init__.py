"""Smaller models of the same kind: fewer tokens, layers, features of MLPs and heads. Kernels stay dense."""

"""Many models for many devices: a matrix of compilations, each in a process of its own.

spec      matrix.toml -> cells
process   one cell in a process (worker.py), which ends with the process that asked for it
local     all cells on this machine
cluster   all cells on a Dask cluster
"""

from edgec.matrix.cell import Cell, Outcome
from edgec.matrix.local import run_local
from edgec.matrix.spec import read_matrix

__all__ = ["Cell", "Outcome", "read_matrix", "run_local"]

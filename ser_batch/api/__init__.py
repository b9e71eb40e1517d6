"""The commands as Python functions, with the same options, defaults and errors.

They return values and raise `ser_batch.errors.SerBatchError`. Notes and progress go to one callback (``report``).
Imports are inside the functions, so that each command loads only the modules it needs.
"""

from ser_batch.api.models import compare, cross_validate, evaluate, export, train
from ser_batch.api.predictions import infer, report, tracks
from ser_batch.api.records import build_records, plan_records, verify

__all__ = (
    "build_records",
    "compare",
    "cross_validate",
    "evaluate",
    "export",
    "infer",
    "plan_records",
    "report",
    "tracks",
    "train",
    "verify",
)

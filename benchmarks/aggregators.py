"""The methods on gradients that the benchmarks compare: aggregators of TorchJD, by name."""

from __future__ import annotations

from collections.abc import Callable

from torchjd.aggregation import IMTLG, MGDA, Aggregator, AlignedMTL, PCGrad, UPGrad

# Those that need no solver (CAGrad and Nash-MTL take a hundred times as long) and no memory of rows, so that a task may
# be missing from a batch.
AGGREGATORS: dict[str, Callable[[], Aggregator]] = {
    "aligned_mtl": AlignedMTL,
    "imtl_g": IMTLG,
    "mgda": MGDA,
    "pcgrad": PCGrad,
    "upgrad": UPGrad,
}

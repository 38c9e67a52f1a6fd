"""The load generator: calls a server from processes of its own and says how it bore it.

>>> from clipseek.bench import ClipseekTarget, ClosedLoop, Load, generate
>>> load = Load(shape=ClosedLoop(callers=8), mix={"search_text": 0.9, "insert": 0.1}, seconds=10)
>>> result = generate(ClipseekTarget("127.0.0.1:50051", pictures=("cat.jpg",)), load)
>>> print(result.total.rate, result.operations["search_text"].latency)

A closed loop has so many callers, each calling again as soon as it has its answer; it finds the most that a server can
do. In an open loop calls come at a constant rate, or by chance, whether or not the answers keep up, and latency counts
from when a call was due; it finds what users of a busy server see.
"""

from clipseek.bench.generator import GeneratorError, generate
from clipseek.bench.operations import ClipseekTarget
from clipseek.bench.plan import ClosedLoop, Done, Load, OpenLoop, Operation, Target
from clipseek.bench.results import Latency, LoadResult, OperationResult

__all__ = [
    "ClipseekTarget",
    "ClosedLoop",
    "Done",
    "GeneratorError",
    "Latency",
    "Load",
    "LoadResult",
    "OpenLoop",
    "Operation",
    "OperationResult",
    "Target",
    "generate",
]

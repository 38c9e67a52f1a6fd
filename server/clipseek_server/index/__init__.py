"""Records and vectors over Milvus (Lite or a server), the filter language, and the resident copy."""

import os

# pymilvus imports pyarrow, which reads it then and never again. Arrow's own allocator keeps what Milvus Lite takes for
# a moment to merge its files: docs/performance.md, "Memory", has how much.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

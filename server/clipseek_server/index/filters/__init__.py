"""The filter language: a subset of Milvus' boolean expressions that means the same on every engine.

A filter is parsed here, evaluated on records (``matches``, ``predicate``) and written for Milvus (``to_milvus``) from
the same tree; no text of a user's reaches Milvus but as a re-written literal. ``docs/filters.md`` describes it for
users.
"""

from clipseek_server.index.filters.evaluation import matches, predicate
from clipseek_server.index.filters.milvus import to_milvus
from clipseek_server.index.filters.parser import parse_filter
from clipseek_server.index.filters.tree import Filter, fingerprint, to_text

__all__ = ["Filter", "fingerprint", "matches", "parse_filter", "predicate", "to_milvus", "to_text"]

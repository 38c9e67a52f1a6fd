"""Records and vectors over Milvus (Lite or a server), the filter language, and the resident copy."""

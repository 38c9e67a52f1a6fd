"""The gRPC edge: servicers, validation and the mapping of errors. It knows no model, no Milvus and no picture library."""

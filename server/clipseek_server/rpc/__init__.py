"""The gRPC edge: servicers, validation, the mapping of errors. No model, no Milvus, no picture library here."""

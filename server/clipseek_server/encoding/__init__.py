"""Bundles, tokenizing, decoding and preprocessing, ONNX sessions: from pictures and sentences to embeddings."""

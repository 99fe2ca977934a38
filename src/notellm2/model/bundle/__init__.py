"""The trained model on disk: one directory without pickles, and its export for transformers and ONNX Runtime."""

"""LiteRT files (.tflite), run by ai-edge-litert."""

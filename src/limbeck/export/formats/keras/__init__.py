"""Keras files (.keras)."""

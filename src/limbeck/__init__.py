"""Limbeck turns large trained models into small ones that can be shipped, and proves that they are good."""

__version__ = "0.1.0"

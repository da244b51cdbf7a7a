"""Networks of Keras as modules of PyTorch."""

"""The formats of files, a folder for each: how a network becomes one, how it is quantized and run."""

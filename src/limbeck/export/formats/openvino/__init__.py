"""OpenVINO files (.xml with a .bin)."""

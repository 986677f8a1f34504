"""diskimage-builder elements: finding, checking and preparing them to be run."""

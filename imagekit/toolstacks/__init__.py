"""One folder per toolstack, behind one registry."""

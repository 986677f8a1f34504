"""Tells whether a lab emulates what a proof relies on, before any image is blamed."""

"""Offline bundles and what gives a machine back from them."""

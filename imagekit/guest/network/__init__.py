"""The network of a guest: one state, and one renderer for each program that configures it."""

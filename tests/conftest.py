"""Beside being here for pytest's import path (``oracles`` is importable), this holds nothing."""

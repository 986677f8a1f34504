"""xm and xend: Python configs and S-expressions."""

"""Quattor's component ncm-xen: Pan templates."""

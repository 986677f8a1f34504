"""Renders preseed and kickstart from a spec."""

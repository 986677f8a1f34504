"""Installer ISOs made to run by themselves."""

"""Stages that several install methods share."""

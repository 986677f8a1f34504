"""The neutral model of a domU and one emitter per toolstack."""

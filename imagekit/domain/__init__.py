"""The neutral model of a domU: its rules, the facts of an image, the boot path."""

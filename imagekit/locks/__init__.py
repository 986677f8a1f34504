"""What is done with locks: update, compare, rebuild twice, explain a difference."""

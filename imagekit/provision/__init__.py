"""Makes domUs from a golden image: clone, grow, identity, config, undo journal, batches."""

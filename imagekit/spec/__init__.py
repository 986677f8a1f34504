"""What a user writes: models, YAML loading, schema."""

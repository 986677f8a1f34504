"""The engine: stages, plan, store, workspace, events."""

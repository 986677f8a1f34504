"""One module per way an OS gets onto a disk."""

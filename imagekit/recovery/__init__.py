"""Lock file, offline bundle, reinstall."""

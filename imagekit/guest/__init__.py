"""Everything done inside an image through libguestfs."""

"""The server side of netboot: published trees, boot configs, serving."""

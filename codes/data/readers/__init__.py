"""The forms in which people keep images → folders, archives, tables and shards of an image list."""

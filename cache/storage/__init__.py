"""Where a store lies: paths and bytes → a folder of a disk, or a prefix of an object store."""

"""Container images on a node: names, archives, registries, and the cache of unpacked ones."""

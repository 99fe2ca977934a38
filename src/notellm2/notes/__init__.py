"""Notes, interactions and images: schemas, shards, safe decoding, importers, data versions."""

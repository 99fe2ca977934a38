"""Notes, interactions and images: schemas, shards, safe decoding, importers, the sample generator, data versions."""

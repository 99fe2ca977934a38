"""The network from token texts and vision features to an embedding: prompt, connector, fusion, heads, loss."""

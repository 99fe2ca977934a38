"""The NoteLLM-2 model: prompts, backbones, connector, late fusion, loss, and its bundle on disk."""

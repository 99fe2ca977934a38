"""The pretrained LLM and vision encoder that a network is made of: loaded by name or folder, or built small here."""

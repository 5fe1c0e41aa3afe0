"""Training of the encoder and, later, of the language model's adapter."""

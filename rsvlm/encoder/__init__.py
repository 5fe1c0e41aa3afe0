"""The encoder: scenes of any sensor and texts in one space."""

"""From imagery and labels to image-text training data; seeded scenes with known truth."""

"""Leakage between two lists of images: the same file, place or picture on both sides."""

"""Recipes turn labels, masks and boxes into language; deterministic under a seed."""

"""Tasks, metrics and reports."""

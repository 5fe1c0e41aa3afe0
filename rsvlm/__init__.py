"""Ask questions of satellite imagery, get answers that can be checked."""

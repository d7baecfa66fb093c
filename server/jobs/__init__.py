"""The job table: requested videos and their states. Knows no vendor and no torch."""

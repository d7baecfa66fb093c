"""The job table: requested videos and their states. Does not know vendors or torch."""

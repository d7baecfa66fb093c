"""Pictures and videos that come in and go out. Knows no vendor and no jobs."""

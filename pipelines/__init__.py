"""The engine: models, devices, videos. Knows no jobs, no HTTP and no vendor."""

"""One package per vendor, which translates its requests and responses. All share jobs, and `kit` for HTTP."""

"""Each package translates the requests and responses of one vendor. All packages share the jobs, and `kit` for HTTP."""

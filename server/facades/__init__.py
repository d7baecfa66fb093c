"""One vendor each: its request model in, its words for a job out. They share the job, and `wire` for HTTP itself."""

"""The work: the dispatcher, the worker processes, and what goes between them. Knows no vendor."""

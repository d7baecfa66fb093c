"""The work on jobs: the dispatcher, the worker processes, and the messages between them. Knows no vendor."""

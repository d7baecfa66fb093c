"""Running jobs: the dispatcher, the worker processes, and the messages between them. Does not know vendors."""

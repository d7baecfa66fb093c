"""Jobs, media, façades and the command line around the engine."""

"""Jobs: what was asked for, how far it is, and who works on it. Knows no vendor and no torch."""

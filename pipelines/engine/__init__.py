"""One run of one Plan: load, place, sample, resume, deliver."""

"""One run of one plan: load and place a model, sample or resume, decode and write the file."""

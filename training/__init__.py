"""How the demo models in `weights/demo` and `weights/demo-i2v` were trained. Not imported at run time."""

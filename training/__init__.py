"""How the demo model in `weights/demo` and `weights/demo-i2v` was made. Nothing imports this package at run time."""

"""The engine: models, devices, videos.

The modules here are pure: no torch, and the server may import all of them. `engine`, `frames` and `lora` compute,
`video` reads and writes files. The package does not know jobs, HTTP or vendors.
"""

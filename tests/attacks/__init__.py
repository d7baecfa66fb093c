"""A hostile client attacks a real server on loopback, while a client with another key works normally.

Each test attacks for a bounded time and then checks how much slower the other client became. `rig.attacked` starts the
server, and `Target.bystander` times health checks and small jobs of another key in a separate process.
"""

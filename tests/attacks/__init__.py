"""What a hostile client tries against a real server on loopback, while another key's client goes about its work.

Each test attacks for a bounded time and then says what the others noticed: `rig.attacked` starts the server,
`Target.bystander` measures health checks and the small jobs of another key in a process of its own.
"""

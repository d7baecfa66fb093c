"""Shared parts of all façades: the app with its guard, bodies, fields, errors, waiting, event streams.

Knows: HTTP, pydantic, jobs. Does not know: any vendor. The modules contain plain functions and data; a vendor passes
its own texts. See docs/adding-a-cloud.md.
"""

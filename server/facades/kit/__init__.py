"""What every cloud's folder calls: an app with its guard, bodies, fields, errors, waiting, event streams.

Knows: HTTP, pydantic, jobs. Does not know: any vendor. The modules hold plain functions and data; a vendor passes its
own words. See docs/adding-a-cloud.md.
"""

"""Limits on clients: connections, requests, request bodies, simultaneous work and disk space."""

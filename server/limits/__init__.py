"""What bounds a client: connections, requests, bodies, places, disk space."""

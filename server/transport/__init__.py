"""HTTP/1.1 and TLS below the apps: connections, request heads, HEAD."""

"""Each package translates the requests and responses of one vendor. All packages use the same jobs, and handle HTTP
with the package `kit`."""

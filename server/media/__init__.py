"""Images, videos and LoRAs: fetching, checking, storing and serving them. Does not know vendors or jobs."""

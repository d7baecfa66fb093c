"""Each package here serves one vendor: it takes that vendor's requests, and describes jobs in the vendor's terms. They
share the job, and `wire` for HTTP itself."""

"""Getting releases: trusted metadata, downloads that resume, deltas."""

"""Resources of a node for CoAP clients that know nothing of this package (RFC 7252)."""

"""Foreign suites over our implementation."""

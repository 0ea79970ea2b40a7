"""Where a node's examples come from; they never leave it."""

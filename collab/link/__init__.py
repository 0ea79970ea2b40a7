"""Sessions between two nodes, over any transport; either end may have dialled."""

"""Privacy of updates: differential privacy, and sums that nobody sees the terms of."""

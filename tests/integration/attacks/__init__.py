"""What attackers can do to a cluster of real processes, and what they cannot."""

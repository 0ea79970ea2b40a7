"""Who asks: the requester's attempts, deadlines and retries."""

"""From a round's updates to the next model: transforms, a combiner, a server optimizer.  Pure."""

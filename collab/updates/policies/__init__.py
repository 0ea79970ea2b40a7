"""When a device looks for a release, takes it, asks for a round or goes back: pure rules over its state."""

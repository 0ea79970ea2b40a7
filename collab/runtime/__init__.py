"""Back ends that run a stage, and combiners."""

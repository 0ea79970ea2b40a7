"""What runs on each device: the dataflow session, its workers and its service."""

"""Generated from protos/collab/v1; do not edit (`make protos`)."""

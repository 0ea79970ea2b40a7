"""A release into many plans: in waves, with thresholds, and back when it is bad.  Pure."""

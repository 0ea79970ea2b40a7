"""Updates and models as few bytes: lossy forms with error feedback, differences, entropy coding.  Pure."""

"""Is a new release as good as the one that runs?  Judged on golden inputs, on copies, then on few requests."""

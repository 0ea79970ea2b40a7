"""Is a new release as good as the one that runs?  Judged on golden inputs, copies, few requests."""

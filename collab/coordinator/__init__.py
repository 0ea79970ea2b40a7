"""The operator's view of a cluster: measure, plan, deploy, run."""

"""The live page of a cluster: what is known of it, who may look and act, the page itself; needs `serve`."""

"""Running plans behind the Open Inference Protocol, over REST and gRPC; REST needs the extra `serve`."""

"""Who may do what: the cluster's authority, enrolment, identities, and rules for brokers."""

"""How a plan behaves over networks that are not there: link models, their profiles, users' traces."""

"""unseen: a laboratory for generalization."""

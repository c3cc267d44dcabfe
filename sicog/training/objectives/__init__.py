"""Training objectives other than cross-entropy."""

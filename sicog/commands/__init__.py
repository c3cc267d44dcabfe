"""What the command line shows beside its commands: help, and the variables of scripts."""

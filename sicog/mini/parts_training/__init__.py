"""For maintainers: train the parts that the mini world ships."""

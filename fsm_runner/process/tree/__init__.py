"""The descendants of a child: how they are found, measured and killed."""

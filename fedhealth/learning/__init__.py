"""What a study computes: the plan of its releases, and the two functions of each task."""

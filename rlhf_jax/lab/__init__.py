"""The report card: every algorithm on every listed task, scored by its distance to the optimum."""

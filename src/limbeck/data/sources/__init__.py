"""Where rows come from, a file for each source of a recipe."""

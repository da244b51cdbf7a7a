"""Files that rows come from, without torch: images, tables, and where published sets of images lie."""

"""What every room may use: types, records, errors, files, seeds, progress. No torch when it is imported."""

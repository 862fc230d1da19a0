"""What is wrong with the photos of a data set: files, duplicates, leaks, labels."""

"""A comparison → the pipeline that it recommends, fitted on every image, and files of it."""

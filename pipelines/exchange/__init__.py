"""Files of other tools ↔ codes: .npz, Parquet and Zarr, read to be compared, or written."""

"""Tasks → results, beside each other: in processes of this machine, or on a Dask cluster."""

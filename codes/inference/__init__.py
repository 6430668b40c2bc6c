"""Crops → codes, on a device, in a precision, as fast as it can."""

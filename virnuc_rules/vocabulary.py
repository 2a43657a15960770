"""The terms of the field, each written once."""

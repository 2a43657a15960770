"""The networks and the bundle that holds their weights."""

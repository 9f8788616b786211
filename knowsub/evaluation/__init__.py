"""The evidence that the removal of a subnetwork must show."""

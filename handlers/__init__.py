"""What ships inside the archive: text in, labelled and calibrated answers out. Imports nothing of `stages`."""

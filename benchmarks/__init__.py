"""Speed and quality, each one command; their results are committed with the device and the commit that gave them."""

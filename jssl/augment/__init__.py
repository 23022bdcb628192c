"""Random views, on the device, inside the step."""

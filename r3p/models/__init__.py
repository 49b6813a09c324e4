"""Networks: Flax Linen modules that take plain fields, NHWC, every width, depth and resolution a field."""
